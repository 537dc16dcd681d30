//! Advantages without a critic: several replies to one prompt are measured against each other.
//!
//! GRPO: `(R_i - mean) / (std + 1e-4)` (Shao et al. 2024, arXiv:2402.03300, section 4.1), with the unbiased deviation, as
//! TRL has it. Dr. GRPO leaves the division out (Liu et al. 2025, arXiv:2503.20783). RLOO: `R_i` less the mean of the
//! others (Ahmadian et al. 2024, arXiv:2402.14740, eq. 8).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the rewards of a group are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupScale {
    /// Their own deviation.
    #[default]
    Group,
    /// The deviation over all groups of the batch.
    Batch,
    /// Nothing.
    None,
}

/// GRPO's advantage of each reply; `rewards` holds group after group of `size`.
///
/// # Panics
/// If the rewards are no whole groups.
pub fn group_advantages(rewards: &[f64], size: usize, scale: GroupScale) -> Vec<f64> {
    assert!(size > 0 && rewards.len().is_multiple_of(size), "whole groups");
    let of_batch = deviation(rewards);
    let groups = rewards.chunks(size).flat_map(|group| {
        let divisor = match scale {
            GroupScale::Group => deviation(group) + 1e-4,
            GroupScale::Batch => of_batch + 1e-4,
            GroupScale::None => 1.0,
        };
        let centre = mean(group);
        group.iter().map(move |reward| (reward - centre) / divisor)
    });
    groups.collect()
}

/// RLOO's advantage of each reply; `rewards` holds group after group of `size`.
///
/// # Panics
/// If the rewards are no whole groups of at least two.
pub fn leave_one_out(rewards: &[f64], size: usize) -> Vec<f64> {
    assert!(
        size > 1 && rewards.len().is_multiple_of(size),
        "whole groups of at least two"
    );
    let n = size as f64;
    let groups = rewards.chunks(size).flat_map(|group| {
        let total: f64 = group.iter().sum();
        group.iter().map(move |reward| reward - (total - reward) / (n - 1.0))
    });
    groups.collect()
}

/// Whether these rewards of one group differ by no more than rounding, so that nothing is learnt from them; so does a
/// group of fewer than two.
pub fn has_no_spread(rewards: impl IntoIterator<Item = f64>) -> bool {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for reward in rewards {
        (low, high) = (low.min(reward), high.max(reward));
    }
    // Advantages divide by a deviation of at least 1e-4, beside which this is nothing. A group of none is -inf wide.
    high - low <= 1e-9 + 1e-12 * low.abs().max(high.abs()).min(f64::MAX)
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// With the unbiased variance; 0 for a single number.
fn deviation(numbers: &[f64]) -> f64 {
    if numbers.len() < 2 {
        return 0.0;
    }
    let centre = mean(numbers);
    let squares: f64 = numbers.iter().map(|x| (x - centre).powi(2)).sum();
    (squares / (numbers.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_measured_against_itself() {
        let rewards = [1.0, 0.0, 0.0, 1.0, 3.0, 3.0, 3.0, 3.0];
        let found = group_advantages(&rewards, 4, GroupScale::Group);
        for (found, sign) in found[..4].iter().zip([1.0, -1.0, -1.0, 1.0]) {
            assert!((found - sign * 0.865875).abs() < 5e-7, "{found}");
        }
        // Alike rewards teach nothing.
        assert_eq!(found[4..], [0.0; 4]);
        assert_eq!(
            group_advantages(&rewards[..4], 4, GroupScale::None),
            [0.5, -0.5, -0.5, 0.5]
        );
        let batch = group_advantages(&rewards, 4, GroupScale::Batch);
        assert!((batch[0] - 0.5 / (deviation(&rewards) + 1e-4)).abs() < 1e-12);
    }

    #[test]
    fn a_group_without_spread_is_one_whose_rewards_differ_by_rounding_only() {
        for (rewards, none) in [
            (&[][..], true),
            (&[0.5], true),
            (&[1.0, 1.0, 1.0], true),
            (&[0.1 + 0.2, 0.3], true),
            (&[1e6 * (0.1 + 0.2), 3e5], true),
            (&[0.0, 1e-6], false),
            (&[1.0, 1.0, 0.0], false),
        ] {
            assert_eq!(has_no_spread(rewards.iter().copied()), none, "{rewards:?}");
        }
    }

    #[test]
    fn the_others_are_the_baseline() {
        let found = leave_one_out(&[1.0, 0.0, 0.5, 7.0, 5.0, 6.0], 3);
        assert_eq!(found, [0.75, -0.75, 0.0, 1.5, -1.5, 0.0]);
        // n/(n-1) times the advantage over the mean with oneself in it.
        let centred = group_advantages(&[1.0, 0.0, 0.5], 3, GroupScale::None);
        assert!(found.iter().zip(&centred).all(|(a, b)| (a - b * 1.5).abs() < 1e-12));
    }
}
