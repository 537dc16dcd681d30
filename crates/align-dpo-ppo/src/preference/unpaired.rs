//! KTO: replies that are good or bad, without a partner.
//!
//! `λ_D (1 - σ(β(r - z₀)))` for a good reply and `λ_U (1 - σ(β(z₀ - r)))` for a bad one, with `r = log π/π_ref` of the
//! reply and z₀ the policy's drift from the reference over mismatched prompts and replies.
//! Source: Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8. Deviation: none.
//!
//! Shapes: n documents.

use tch::{Kind, Tensor};

/// How good and bad replies are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Desirability {
    /// β.
    pub beta: f64,
    /// `λ_D`.
    pub desirable_weight: f64,
    /// `λ_U`.
    pub undesirable_weight: f64,
}

/// z₀: the mean of `log_ratios` (`[n]`, log `π/π_ref` of mismatched replies), not below 0, without a graph.
pub fn baseline(log_ratios: &Tensor) -> f64 {
    log_ratios.mean(Kind::Double).double_value(&[]).max(0.0)
}

/// The loss of each document: `[n]`.
///
/// `log_ratios`: `[n]`, log `π/π_ref` of each reply; `desirable`: `[n]` bool. A baseline of 0 throughout is TRL's
/// `apo_zero_unpaired`.
pub fn kto(log_ratios: &Tensor, desirable: &Tensor, baseline: f64, weights: &Desirability) -> Tensor {
    let kind = log_ratios.kind();
    let desirable = desirable.to_kind(kind);
    let sign = &desirable * 2.0 - 1.0;
    let weight = &desirable * (weights.desirable_weight - weights.undesirable_weight) + weights.undesirable_weight;
    // 1 - σ(x) = σ(-x).
    ((log_ratios - baseline) * sign * -weights.beta).sigmoid() * weight
}
