//! Odds of a reply, from the mean log-probability of its tokens.

use std::f64::consts::LN_2;

use tch::{Kind, Tensor};

/// `log(p / (1 - p))` of log-probabilities `log_p ≤ 0`, any shape.
///
/// `log p - log(1 - p)`, the second term as `log1p(-eˣ)` far from 0 and `log(-expm1(x))` near it. A log-probability
/// closer to 0 than its dtype's rounding counts as that far away: odds stay finite, and so do gradients.
pub fn log_odds(log_p: &Tensor) -> Tensor {
    let nearest = if log_p.kind() == Kind::Double {
        f64::EPSILON
    } else {
        f64::from(f32::EPSILON)
    };
    let log_p = log_p.clamp_max(-nearest);
    // Each branch sees only what it is for, or the unused one's infinite gradient would make NaN of the used one's.
    let far = (-log_p.clamp_max(-LN_2).exp()).log1p();
    let near = (-log_p.clamp_min(-LN_2).expm1()).log();
    &log_p - far.where_self(&log_p.lt(-LN_2), &near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odds_are_right_near_certainty_and_near_never() {
        for (p, wanted) in [(0.5f64, 0.0), (0.2, 0.25f64.ln()), (0.9, 9f64.ln())] {
            let found = log_odds(&Tensor::from_slice(&[p.ln()])).double_value(&[0]);
            assert!((found - wanted).abs() < 1e-12, "{p}: {found}");
        }
        // At x = -1e-9, 1 - p is 1e-9; at x = -60, the odds are p itself.
        for (log_p, wanted) in [(-1e-9f64, 1e9f64.ln()), (-60.0, -60.0)] {
            let found = log_odds(&Tensor::from_slice(&[log_p])).double_value(&[0]);
            assert!((found - wanted).abs() < 1e-8, "{log_p}: {found}");
        }
    }

    #[test]
    fn a_certain_reply_has_finite_odds_and_gradients() {
        for kind in [Kind::Float, Kind::Double] {
            let log_p = Tensor::from_slice(&[0.0f64, -1e-12, -1e-3, -0.7, -90.0]).to_kind(kind);
            let log_p = log_p.set_requires_grad(true);
            let odds = log_odds(&log_p);
            odds.sum(kind).backward();
            assert!(odds.isfinite().all().int64_value(&[]) == 1, "{odds:?}");
            assert!(log_p.grad().isfinite().all().int64_value(&[]) == 1);
        }
    }
}
