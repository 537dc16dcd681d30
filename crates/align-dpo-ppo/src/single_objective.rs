//! KTO as an objective over packed rows of single replies.
//!
//! The baseline z₀ is the policy's drift over mismatched replies, each prompt of a step with the reply before it, and it
//! is one number for all rows of a step: it is measured when the first of them asks.
//!
//! Shapes: t tokens, n documents.

use std::cell::OnceCell;
use std::rc::Rc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use tensor_core::{Loss, ModelPass, Objective, Pass};

use crate::pair_objective::mean_logits;
use crate::preference::{Desirability, baseline, kto};
use crate::{Error, Reference, ReplyRow, Result};

/// Which loss single replies have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KtoLoss {
    /// With the drift as baseline.
    #[default]
    Kto,
    /// With a baseline of 0: nothing mismatched is run. arXiv:2408.06266.
    ApoZeroUnpaired,
}

/// Options of KTO: TRL's keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KtoConfig {
    /// How strongly the policy is held to the reference: β. Larger values keep it nearer; 0.01 to 0.5 are usual.
    pub beta: f64,
    /// The loss: KTO with its baseline, or APO without one.
    pub loss_type: KtoLoss,
    /// What a good reply counts in the loss: `λ_D`. Choose both weights such that the weighted counts of good and bad
    /// replies relate as 1 to 4/3.
    pub desirable_weight: f64,
    /// What a bad reply counts in the loss: `λ_U`.
    pub undesirable_weight: f64,
}

impl Default for KtoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss_type: KtoLoss::Kto,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        }
    }
}

/// Prompts of a step with replies that are not theirs.
#[derive(Debug, Default)]
pub struct Mismatched {
    rows: Vec<ReplyRow>,
    drift: OnceCell<f64>,
}

/// One row of single replies.
#[derive(Debug)]
pub struct SingleRow {
    /// Prompts with their replies.
    pub replies: ReplyRow,
    /// `[n]` bool: whether each reply is a good one.
    pub desirable: Tensor,
    /// The same for all rows of a step.
    pub mismatched: Rc<Mismatched>,
}

/// KTO, summed over documents.
#[derive(Debug)]
pub struct SingleReplies {
    loss_type: KtoLoss,
    weights: Desirability,
    reference: Reference,
}

impl Mismatched {
    /// Of a whole step.
    pub fn new(rows: Vec<ReplyRow>) -> Self {
        Self {
            rows,
            drift: OnceCell::new(),
        }
    }

    /// z₀ under the policy as it is when this is first asked.
    fn baseline(&self, policy: &ModelPass, reference: &Reference) -> tensor_core::Result<f64> {
        if let Some(drift) = self.drift.get() {
            return Ok(*drift);
        }
        let mut ratios = Vec::new();
        for row in &self.rows {
            let hidden = policy.measured_hidden(&row.tokens, &row.documents);
            let pass = Pass::evaluate(&row.documents);
            let log_probs = tch::no_grad(|| row.log_probs(&hidden, policy.head(), &pass));
            ratios.push(log_probs - reference.log_probs(policy, row)?);
        }
        let drift = if ratios.is_empty() {
            0.0
        } else {
            baseline(&Tensor::cat(&ratios, 0))
        };
        Ok(*self.drift.get_or_init(|| drift))
    }
}

impl KtoConfig {
    /// Errors: a number outside its range.
    pub fn check(&self) -> Result<()> {
        for (option, number) in [
            ("beta", self.beta),
            ("desirable_weight", self.desirable_weight),
            ("undesirable_weight", self.undesirable_weight),
        ] {
            if !(number > 0.0 && number.is_finite()) {
                return Err(Error::Option {
                    option,
                    wanted: "a number above 0",
                    found: number.to_string(),
                });
            }
        }
        Ok(())
    }
}

impl SingleReplies {
    /// As `config` says.
    ///
    /// Errors: a number outside its range.
    pub fn new(config: &KtoConfig, reference: Reference) -> Result<Self> {
        config.check()?;
        Ok(Self {
            loss_type: config.loss_type,
            weights: Desirability {
                beta: config.beta,
                desirable_weight: config.desirable_weight,
                undesirable_weight: config.undesirable_weight,
            },
            reference,
        })
    }
}

impl Objective for SingleReplies {
    type Batch = SingleRow;

    fn weight(&self, row: &SingleRow) -> f64 {
        row.replies.documents.len() as f64
    }

    fn loss(&self, policy: &ModelPass, row: &SingleRow) -> tensor_core::Result<Loss> {
        let replies = &row.replies;
        let documents = &replies.documents;
        let drift = match self.loss_type {
            KtoLoss::Kto => row.mismatched.baseline(policy, &self.reference)?,
            KtoLoss::ApoZeroUnpaired => 0.0,
        };
        let reference = self.reference.log_probs(policy, replies)?;
        let hidden = policy.hidden(&replies.tokens, documents);
        let log_probs = replies.log_probs(&hidden, policy.head(), &policy.pass(documents));
        let ratios = &log_probs - reference;
        let sum = kto(&ratios, &row.desirable, drift, &self.weights).sum(Kind::Float);
        let logits = tch::no_grad(|| mean_logits(&hidden, policy.head(), replies));
        let rewards = ratios.detach() * self.weights.beta;
        let good = row.desirable.to_kind(Kind::Double);
        let mut of_replies = Vec::new();
        for (names, chosen) in [
            (
                ["rewards/chosen", "logps/chosen", "logits/chosen"],
                good.shallow_clone(),
            ),
            (["rewards/rejected", "logps/rejected", "logits/rejected"], 1.0 - &good),
        ] {
            let count = chosen.sum(Kind::Double).double_value(&[]);
            for (name, numbers) in names.into_iter().zip([&rewards, &log_probs, &logits]) {
                let sum = (numbers.detach().to_kind(Kind::Double) * &chosen).sum(Kind::Double);
                of_replies.push((name, sum.double_value(&[]), count));
            }
        }
        Ok(Loss {
            metrics: vec![("kl", drift * documents.len() as f64)],
            ratios: of_replies,
            ..Loss::of(sum)
        })
    }
}
