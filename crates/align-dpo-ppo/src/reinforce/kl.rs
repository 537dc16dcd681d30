//! How far the policy has gone from the reference, and what that costs.
//!
//! On `d = log π_ref - log π` of a token drawn from π: `k1 = -d`, `k2 = d²/2`, `k3 = eᵈ - 1 - d` (Schulman 2020). k1 and
//! k3 have the KL divergence as their mean; k3 is never negative.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// An estimate of the KL divergence from single tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `log π - log π_ref`.
    #[default]
    K1,
    /// Half its square.
    K2,
    /// `π_ref/π - 1 - log π_ref/π`.
    K3,
}

impl KlEstimator {
    /// The estimate of each token, in nats, differentiably: any shape.
    pub fn of(self, log_probs: &Tensor, reference: &Tensor) -> Tensor {
        let d = reference - log_probs;
        match self {
            Self::K1 => -d,
            Self::K2 => d.square() * 0.5,
            Self::K3 => d.expm1() - d,
        }
    }

    /// [`Self::of`] one token.
    pub fn of_token(self, log_prob: f64, reference: f64) -> f64 {
        let d = reference - log_prob;
        match self {
            Self::K1 => -d,
            Self::K2 => d * d * 0.5,
            Self::K3 => d.exp_m1() - d,
        }
    }
}

/// A price of a nat that follows a target: `β ← β (1 + clip(KL/target - 1, ±0.2) n/horizon)` after n replies.
///
/// Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2, as in their code. Deviation: none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdaptiveKl {
    /// Nats a reply that the policy shall keep to.
    pub target: f64,
    /// Replies in which β can change by a fifth.
    pub horizon: f64,
}

impl AdaptiveKl {
    /// The next price, after `num_replies` replies that were `kl` nats away in the mean.
    pub fn next(&self, beta: f64, kl: f64, num_replies: usize) -> f64 {
        let error = (kl / self.target - 1.0).clamp(-0.2, 0.2);
        beta * (1.0 + error * num_replies as f64 / self.horizon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimators_give_the_golden_numbers_for_tokens_and_tensors() {
        for (d, k3) in [(0.2, 0.0214028), (-0.2, 0.0187308)] {
            let found = KlEstimator::K3.of_token(0.0, d);
            assert!((found - k3).abs() < 5e-8, "{found}");
            assert!((KlEstimator::K1.of_token(0.0, d) + d).abs() < 1e-15);
            assert!((KlEstimator::K2.of_token(0.0, d) - 0.02).abs() < 1e-15);
        }
        let (log_probs, reference) = (Tensor::from_slice(&[-1.0, -0.5]), Tensor::from_slice(&[-1.3, -0.5]));
        for estimator in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3] {
            let found = estimator.of(&log_probs, &reference);
            assert!((found.double_value(&[0]) - estimator.of_token(-1.0, -1.3)).abs() < 1e-15);
            assert_eq!(found.double_value(&[1]), 0.0);
        }
    }

    #[test]
    fn the_price_rises_above_the_target_falls_below_and_stays_at_it() {
        let kl = AdaptiveKl {
            target: 6.0,
            horizon: 10_000.0,
        };
        for (found, wanted) in [(12.0, 0.151536), (6.0, 0.15), (3.0, 0.148464)] {
            assert!((kl.next(0.15, found, 512) - wanted).abs() < 1e-12);
        }
    }
}
