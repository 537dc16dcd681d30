//! The losses over pairs, by TRL's names.
//!
//! `h = log π/π_ref(chosen) - log π/π_ref(rejected)`, with log-probabilities summed over the reply unless said.
//! Deviations from TRL: `ipo_sum` (without the division by lengths) and `cdpo` are additions; `sft` and the likelihood in
//! `orpo` are means over each document and then over pairs, as in ORPO's paper, so that every pair weighs the same.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Pairs, log_odds};

/// A loss over pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// DPO: `-log σ(βh)`. Rafailov et al. 2023, arXiv:2305.18290, eq. 7.
    Sigmoid,
    /// Conservative DPO: labels are wrong with probability ε, `-(1-ε) log σ(βh) - ε log σ(-βh)`.
    Cdpo,
    /// Robust DPO, unbiased under flipped labels: `(-(1-ε) log σ(βh) + ε log σ(-βh)) / (1-2ε)`. arXiv:2403.00409.
    Robust,
    /// `SLiC`: `max(0, 1 - βh)`. arXiv:2305.10425.
    Hinge,
    /// IPO a token: `(h' - 1/2β)²`, each log-ratio divided by its reply's length. arXiv:2310.12036, eq. 17.
    Ipo,
    /// IPO over sums: `(h - 1/2β)²`.
    IpoSum,
    /// DPO a token: `-log σ(βh')`.
    SigmoidNorm,
    /// SPPO with hard labels: `(log-ratio_w - 1/2β)² + (log-ratio_l + 1/2β)²`. arXiv:2405.00675, eq. 4.7.
    SppoHard,
    /// APO-zero: `1 - σ(β log-ratio_w) + σ(β log-ratio_l)`. arXiv:2408.06266, eq. 7.
    ApoZero,
    /// APO-down: `σ(β log-ratio_w) + 1 - σ(βh)`. arXiv:2408.06266, eq. 8.
    ApoDown,
    /// `SimPO`: `-log σ(β(mean log π_w - mean log π_l) - γ)`, without a reference. arXiv:2405.14734, eq. 6.
    Simpo,
    /// ORPO: the likelihood of the better reply, and `-β log σ(log odds_w - log odds_l)`. arXiv:2403.07691, eq. 6.
    Orpo,
    /// The negative log-likelihood of the better reply.
    Sft,
}

impl std::fmt::Display for LossType {
    /// The name that a recipe gives it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// Several losses, as a message names them.
pub(crate) fn listed(losses: &[LossType]) -> String {
    let names: Vec<String> = losses.iter().map(|loss| format!("`{loss}`")).collect();
    names.join(", ")
}

/// How strongly the losses pull.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// β: the reward of a nat.
    pub beta: f64,
    /// ε: the share of pairs whose labels are taken to be wrong.
    pub label_smoothing: f64,
    /// γ of `simpo`: the reward by which the better reply shall lead.
    pub simpo_gamma: f64,
}

impl Default for Strength {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            simpo_gamma: 0.5,
        }
    }
}

impl LossType {
    /// Every loss there is.
    pub const ALL: [Self; 13] = [
        Self::Sigmoid,
        Self::Cdpo,
        Self::Robust,
        Self::Hinge,
        Self::Ipo,
        Self::IpoSum,
        Self::SigmoidNorm,
        Self::SppoHard,
        Self::ApoZero,
        Self::ApoDown,
        Self::Simpo,
        Self::Orpo,
        Self::Sft,
    ];

    /// Whether the loss compares with a reference.
    pub fn needs_reference(self) -> bool {
        !matches!(self, Self::Simpo | Self::Orpo | Self::Sft)
    }

    /// Whether the loss asks how many labels are wrong.
    pub fn smooths_labels(self) -> bool {
        matches!(self, Self::Cdpo | Self::Robust)
    }

    /// The loss of each pair: `[n]`.
    pub fn of_pairs(self, pairs: &Pairs, strength: &Strength) -> Tensor {
        let Strength {
            beta,
            label_smoothing: epsilon,
            simpo_gamma: gamma,
        } = *strength;
        let (chosen, rejected) = (&pairs.chosen, &pairs.rejected);
        match self {
            Self::Sigmoid => -(pairs.margin() * beta).log_sigmoid(),
            Self::Cdpo => {
                let reward = pairs.margin() * beta;
                -(reward.log_sigmoid() * (1.0 - epsilon)) - (-reward).log_sigmoid() * epsilon
            }
            Self::Robust => {
                let reward = pairs.margin() * beta;
                ((-reward.shallow_clone()).log_sigmoid() * epsilon - reward.log_sigmoid() * (1.0 - epsilon))
                    / (1.0 - 2.0 * epsilon)
            }
            Self::Hinge => (pairs.margin() * -beta + 1.0).relu(),
            Self::Ipo => (chosen.mean_log_ratio() - rejected.mean_log_ratio() - 0.5 / beta).square(),
            Self::IpoSum => (pairs.margin() - 0.5 / beta).square(),
            Self::SigmoidNorm => -((chosen.mean_log_ratio() - rejected.mean_log_ratio()) * beta).log_sigmoid(),
            Self::SppoHard => (chosen.log_ratio() - 0.5 / beta).square() + (rejected.log_ratio() + 0.5 / beta).square(),
            Self::ApoZero => (rejected.log_ratio() * beta).sigmoid() + (chosen.log_ratio() * -beta).sigmoid(),
            Self::ApoDown => (chosen.log_ratio() * beta).sigmoid() + (pairs.margin() * -beta).sigmoid(),
            Self::Simpo => -((chosen.mean_log_prob() - rejected.mean_log_prob()) * beta - gamma).log_sigmoid(),
            Self::Orpo => {
                let ratio = log_odds(&chosen.mean_log_prob()) - log_odds(&rejected.mean_log_prob());
                &pairs.chosen_nll - ratio.log_sigmoid() * beta
            }
            Self::Sft => pairs.chosen_nll.shallow_clone(),
        }
    }

    /// What TRL logs as rewards `(chosen, rejected)` under this loss: `[n]` each, without a graph.
    pub fn rewards(self, pairs: &Pairs, beta: f64) -> (Tensor, Tensor) {
        let of = |side: &super::Side| {
            let log = if self.needs_reference() {
                side.log_ratio()
            } else {
                side.mean_log_prob()
            };
            (log.detach() * beta).to_kind(Kind::Double)
        };
        (of(&pairs.chosen), of(&pairs.rejected))
    }
}
