//! PPO's clipped losses, token by token.
//!
//! `max(-A r, -A clip(r, 1-ε, 1+ε'))` with `r = π/π_old`, and `½ max((V-R)², (clip(V, V_old ± ε_V) - R)²)`.
//! Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; two bounds from DAPO (arXiv:2503.14476, eq. 8); the value's
//! clipping from the same authors' code. Deviation: none.

use tch::{Kind, Tensor};

/// How far the ratio of a token may go before its gradient stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// ε below 1.
    pub low: f64,
    /// ε' above 1.
    pub high: f64,
}

impl Clip {
    /// As far up as down.
    pub fn even(epsilon: f64) -> Self {
        Self {
            low: epsilon,
            high: epsilon,
        }
    }
}

/// The policy's loss of each token, `[t]`; all arguments `[t]`, `old` and `advantages` without a graph.
pub fn policy_loss(log_probs: &Tensor, old: &Tensor, advantages: &Tensor, clip: Clip) -> Tensor {
    let ratio = (log_probs - old).exp();
    let clipped = ratio.clamp(1.0 - clip.low, 1.0 + clip.high);
    (-(&ratio * advantages)).maximum(&-(clipped * advantages))
}

/// For each token whether clipping stops its gradient: `[t]`, 1 or 0.
pub fn clip_fraction(log_probs: &Tensor, old: &Tensor, advantages: &Tensor, clip: Clip) -> Tensor {
    tch::no_grad(|| {
        let ratio = (log_probs - old).exp();
        let up = ratio.gt(1.0 + clip.high).logical_and(&advantages.gt(0.0));
        let down = ratio.lt(1.0 - clip.low).logical_and(&advantages.lt(0.0));
        up.logical_or(&down).to_kind(Kind::Float)
    })
}

/// The value's loss of each token, `[t]`; all arguments `[t]`, `old` and `returns` without a graph.
pub fn value_loss(values: &Tensor, old: &Tensor, returns: &Tensor, clip: f64) -> Tensor {
    let clipped = values.maximum(&(old - clip)).minimum(&(old + clip));
    let (free, bound) = ((values - returns).square(), (clipped - returns).square());
    free.maximum(&bound) * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[f64]) -> Tensor {
        Tensor::from_slice(numbers)
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.detach().to_kind(Kind::Double)).unwrap()
    }

    fn near(found: &Tensor, wanted: &[f64]) {
        let found = numbers(found);
        assert!(
            found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9) && found.len() == wanted.len(),
            "{found:?} instead of {wanted:?}"
        );
    }

    #[test]
    fn the_clipped_loss_gives_the_golden_numbers_and_stops_where_it_clips() {
        let log_ratios = of(&[1.3, 0.7, 0.5, 1.5]).log().set_requires_grad(true);
        let advantages = of(&[1.0, -1.0, 2.0, -2.0]);
        let loss = policy_loss(&log_ratios, &of(&[0.0; 4]), &advantages, Clip::even(0.2));
        near(&loss, &[-1.2, 0.8, -1.0, 3.0]);
        assert!((loss.mean(Kind::Double).double_value(&[]) - 0.4).abs() < 1e-12);
        let clipped = clip_fraction(&log_ratios, &of(&[0.0; 4]), &advantages, Clip::even(0.2));
        near(&clipped, &[1.0, 1.0, 0.0, 0.0]);
        loss.sum(Kind::Double).backward();
        // d(-A r) = -A r where nothing is clipped, 0 where it is.
        near(&log_ratios.grad(), &[0.0, 0.0, -1.0, 3.0]);
    }

    #[test]
    fn a_wider_upper_bound_lets_only_good_tokens_go_further() {
        let (log_ratios, old) = (of(&[1.25, 0.75]).log(), of(&[0.0; 2]));
        let clip = Clip { low: 0.2, high: 0.28 };
        near(&policy_loss(&log_ratios, &old, &of(&[1.0, -1.0]), clip), &[-1.25, 0.8]);
    }

    #[test]
    fn before_the_first_update_the_loss_is_minus_the_advantage() {
        let (log_probs, advantages) = (of(&[-1.0, -2.5, -0.1]), of(&[0.7, -1.2, 0.5]));
        let leaf = log_probs.copy().set_requires_grad(true);
        let loss = policy_loss(&leaf, &log_probs, &advantages, Clip::even(0.2));
        near(&loss, &[-0.7, 1.2, -0.5]);
        loss.sum(Kind::Double).backward();
        near(&leaf.grad(), &[-0.7, 1.2, -0.5]);
    }

    #[test]
    fn the_clipped_value_loss_gives_the_golden_mean_and_never_less_than_the_free_one() {
        let (values, old, returns) = (of(&[1.0, 0.0, 0.5]), of(&[0.5, 0.1, 0.4]), of(&[1.2, -0.5, 0.9]));
        let loss = value_loss(&values, &old, &returns, 0.2);
        assert!((loss.mean(Kind::Double).double_value(&[]) - 0.11).abs() < 1e-12);
        let free = (values - returns).square() * 0.5;
        assert_eq!(loss.ge_tensor(&free).all().int64_value(&[]), 1);
    }
}
