//! `[objective] kind = "memory"`: facts trained one by one into a memory, until each is known.

use std::path::PathBuf;

use memory_tuning::{Choice, RowOptimizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, ObjectiveConfig, Recipe};

/// Options of `memory`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryObjective {
    /// A fact is known once its answer's loss is under this, in nats a token.
    pub target_loss: f64,
    /// Steps after which a fact is given up.
    pub max_steps_per_fact: usize,
    /// The optimiser of the memory's rows.
    pub optimizer: RowOptimizer,
    /// Which of the experts that a fact meets are trained.
    pub choice: Choice,
    /// With `tf_idf`: experts that a fact trains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// With `tf_idf`: general text (`.txt`, or rows with `text`), whose experts are spared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<PathBuf>,
    /// Tokens of it that are read, from its start.
    pub background_tokens: usize,
    /// Of conversations, learn the assistant's turns only.
    pub assistant_only_loss: bool,
    /// Of prompts with a reply, learn the reply only.
    pub completion_only_loss: bool,
}

impl Default for MemoryObjective {
    fn default() -> Self {
        Self {
            target_loss: 0.05,
            max_steps_per_fact: 100,
            optimizer: RowOptimizer::default(),
            choice: Choice::default(),
            slots: None,
            background: None,
            background_tokens: 16_384,
            assistant_only_loss: true,
            completion_only_loss: true,
        }
    }
}

/// Refuses what does not go together.
pub(super) fn check(recipe: &Recipe, document: &Document) -> anyhow::Result<()> {
    let refuse = |at: &str, what: &str| Err(document.error(at, what, None));
    let ObjectiveConfig::Memory(objective) = &recipe.objective else {
        return Ok(());
    };
    if !(objective.target_loss > 0.0 && objective.target_loss.is_finite()) {
        return refuse("objective.target_loss", "wanted nats above 0, such as 0.05");
    }
    if objective.max_steps_per_fact == 0 {
        return refuse("objective.max_steps_per_fact", "wanted at least 1");
    }
    match (objective.choice, objective.slots, &objective.background) {
        (Choice::All, None, Some(_)) => {
            return refuse(
                "objective.background",
                "it has no effect with `choice = \"all\"`; use `choice = \"tf_idf\"`",
            );
        }
        (Choice::All, Some(_), _) => {
            return refuse(
                "objective.slots",
                "it has no effect with `choice = \"all\"`; use `choice = \"tf_idf\"`",
            );
        }
        (Choice::TfIdf, None | Some(0), _) => {
            return refuse(
                "objective.slots",
                "`choice = \"tf_idf\"` wants how many experts a fact trains, such as 64",
            );
        }
        (Choice::TfIdf, _, None) => {
            return refuse(
                "objective.background",
                "`choice = \"tf_idf\"` wants a general text to compare with",
            );
        }
        _ => {}
    }
    let data = &recipe.data;
    if let Some(idx) = data
        .train
        .iter()
        .position(|source| source.weight.to_bits() != 1f64.to_bits())
    {
        return refuse(
            &format!("data.train.{idx}.weight"),
            "facts are visited until they are known, each as often as it needs; a weight has no effect",
        );
    }
    if data.group_by_length || data.drop_last {
        let at = if data.drop_last {
            "data.drop_last"
        } else {
            "data.group_by_length"
        };
        return refuse(at, "facts are visited in an order of their own; it has no effect");
    }
    Ok(())
}
