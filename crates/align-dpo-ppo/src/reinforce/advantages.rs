//! Generalised advantage estimation over one reply, and whitening over many.
//!
//! `δ_t = r_t + γ V_{t+1} - V_t`, `A_t = Σ_l (γλ)^l δ_{t+l}`, `R_t = A_t + V_t`; behind the last token the value is 0.
//! Source: Schulman et al. 2015, arXiv:1506.02438, eq. 16, as in PPO (arXiv:1707.06347, eq. 11). Deviation: none.

/// A of each token.
///
/// # Panics
/// If there is not one value a reward.
pub fn advantages(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Vec<f64> {
    assert_eq!(rewards.len(), values.len(), "one value a reward");
    let mut found = vec![0.0; rewards.len()];
    let (mut ahead, mut next_value) = (0.0, 0.0);
    for t in (0..rewards.len()).rev() {
        let delta = rewards[t] + gamma * next_value - values[t];
        ahead = delta + gamma * lambda * ahead;
        found[t] = ahead;
        next_value = values[t];
    }
    found
}

/// R of each token: what its value should have been.
pub fn returns(advantages: &[f64], values: &[f64]) -> Vec<f64> {
    advantages.iter().zip(values).map(|(a, v)| a + v).collect()
}

/// Scales numbers to variance 1, and to mean 0 if `shift` (else the mean stays): unbiased variance, 1e-8 added to it.
///
/// Fewer than two numbers have no variance and stay as they are.
pub fn whiten(numbers: &mut [f64], shift: Shift) {
    if numbers.len() < 2 {
        return;
    }
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let scale = (variance + 1e-8).sqrt().recip();
    let around = match shift {
        Shift::ToZero => 0.0,
        Shift::None => mean,
    };
    for x in numbers {
        *x = (*x - mean) * scale + around;
    }
}

/// What whitening does to the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// It becomes 0: advantages.
    ToZero,
    /// It stays: rewards.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        for (found_one, wanted_one) in found.iter().zip(wanted) {
            assert!((found_one - wanted_one).abs() < 5e-7, "{found:?} instead of {wanted:?}");
        }
    }

    const REWARDS: [f64; 4] = [0.1, -0.2, 0.0, 1.0];
    const VALUES: [f64; 4] = [0.5, 0.4, 0.3, 0.2];

    #[test]
    fn the_recursion_gives_the_golden_advantages() {
        for (gamma, lambda, wanted) in [
            (1.0, 0.95, [0.31065, 0.327, 0.66, 0.8]),
            (1.0, 1.0, [0.4, 0.4, 0.7, 0.8]),
            (1.0, 0.0, [0.0, -0.3, -0.1, 0.8]),
            (0.99, 0.95, [0.286333, 0.308701, 0.6504, 0.8]),
        ] {
            near(&advantages(&REWARDS, &VALUES, gamma, lambda), &wanted);
        }
        let found = advantages(&REWARDS, &VALUES, 1.0, 0.95);
        near(&returns(&found, &VALUES), &[0.81065, 0.727, 0.96, 1.0]);
    }

    #[test]
    fn the_recursion_is_the_direct_sum() {
        let (gamma, lambda) = (0.9f64, 0.7f64);
        let value = |t: usize| VALUES.get(t).copied().unwrap_or(0.0);
        let delta = |t: usize| REWARDS[t] + gamma * value(t + 1) - value(t);
        let direct: Vec<f64> = (0..4)
            .map(|t| (t..4).map(|s| (gamma * lambda).powi((s - t) as i32) * delta(s)).sum())
            .collect();
        near(&advantages(&REWARDS, &VALUES, gamma, lambda), &direct);
        // Nothing is earned where a constant value was expected and no reward came: only the end disappoints.
        near(&advantages(&[0.0; 3], &[0.6; 3], 1.0, 0.0), &[0.0, 0.0, -0.6]);
    }

    #[test]
    fn whitening_gives_the_golden_numbers_and_can_keep_the_mean() {
        let mut found = advantages(&REWARDS, &VALUES, 1.0, 0.95);
        let mean = found.iter().sum::<f64>() / 4.0;
        let mut kept = found.clone();
        whiten(&mut found, Shift::ToZero);
        near(&found, &[-0.875120, -0.808184, 0.555080, 1.128224]);
        whiten(&mut kept, Shift::None);
        near(&kept, &found.iter().map(|x| x + mean).collect::<Vec<_>>());
        let mut one = [3.0];
        whiten(&mut one, Shift::ToZero);
        near(&one, &[3.0]);
    }
}
