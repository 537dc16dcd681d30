//! A reward model: one number a document, trained so that the better reply of a pair has the larger one.
//!
//! Source: Bradley–Terry as in Ouyang et al. 2022, arXiv:2203.02155, eq. 1, one pair a prompt. Deviation: none.
//!
//! Shapes: t tokens, n pairs.

use decoder::loss::label_logits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use tensor_core::{Documents, Error as CoreError, Loss, ModelPass, ModulePath, Objective};

use crate::preference::bradley_terry;
use crate::{Error, Result};

/// Options of a reward model: TRL's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// How strongly scores are pulled towards 0 in the mean of a pair; TRL suggests 0.01.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub center_rewards_coefficient: Option<f64>,
}

/// A row of pairs that are scored: the better one's document stands before the worse one's.
#[derive(Debug)]
pub struct ScoredRow {
    /// `[t]` i64
    pub tokens: Tensor,
    /// Where each document begins.
    pub documents: Documents,
    /// `[n]` f32: by how much each pair's better reply is said to be better.
    pub margin: Option<Tensor>,
}

/// Bradley–Terry over pairs, summed.
#[derive(Clone, Copy, Debug)]
pub struct RewardLoss {
    centring: f64,
}

impl RewardLoss {
    /// As `config` says.
    ///
    /// Errors: a negative coefficient.
    pub fn new(config: &RewardConfig) -> Result<Self> {
        let centring = config.center_rewards_coefficient.unwrap_or(0.0);
        if !(centring >= 0.0 && centring.is_finite()) {
            return Err(Error::Option {
                option: "center_rewards_coefficient",
                wanted: "0 or more",
                found: centring.to_string(),
            });
        }
        Ok(Self { centring })
    }
}

impl Objective for RewardLoss {
    type Batch = ScoredRow;

    fn weight(&self, row: &ScoredRow) -> f64 {
        row.documents.len() as f64 / 2.0
    }

    fn loss(&self, policy: &ModelPass, row: &ScoredRow) -> tensor_core::Result<Loss> {
        let scores = label_logits(policy, &row.tokens, &row.documents)?;
        let wanted = [row.documents.len().next_multiple_of(2) as i64, 1];
        if scores.size() != wanted {
            return Err(CoreError::Shape {
                at: ModulePath::from("scores of pairs"),
                wanted: wanted.to_vec(),
                found: scores.size(),
            });
        }
        let scores = scores.view([-1, 2]);
        let (chosen, rejected) = (scores.select(1, 0), scores.select(1, 1));
        let each = bradley_terry(&chosen, &rejected, row.margin.as_ref(), self.centring);
        let total = |x: &Tensor| x.detach().sum(Kind::Double).double_value(&[]);
        Ok(Loss {
            metrics: vec![
                ("accuracy", total(&chosen.gt_tensor(&rejected))),
                ("margin", total(&(&chosen - &rejected))),
                ("mean_reward", total(&((&chosen + &rejected) * 0.5))),
            ],
            ..Loss::of(each.sum(Kind::Float))
        })
    }
}
