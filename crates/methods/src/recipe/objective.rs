//! `[objective]`: which kind, and its options.

use align_dpo_ppo::preference::{OrpoConfig, PreferenceConfig};
use align_dpo_ppo::rollout::{GrpoConfig, PpoConfig};
use align_dpo_ppo::{KtoConfig, RewardConfig, RewardLoss};
use anyhow::{Result, bail};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Document, MemoryObjective};
use ::recipe::Places;

/// `[objective]`: what is minimised.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ObjectiveConfig {
    /// The cross-entropy of the next token.
    Sft(SftConfig),
    /// The cross-entropy of a document's class.
    Classify(ClassifyConfig),
    /// What another model thinks of the next token.
    Distill(DistillConfig),
    /// A loss of the DPO family over pairs of replies.
    Dpo(PreferenceConfig),
    /// ORPO over pairs of replies, without a reference.
    Orpo(OrpoConfig),
    /// KTO over single replies that are good or bad.
    Kto(KtoConfig),
    /// A reward model from pairs of replies.
    Reward(RewardConfig),
    /// PPO: replies that the model writes, rewarded, against a critic.
    Ppo(PpoConfig),
    /// GRPO and its kin: replies that the model writes, rewarded, against each other.
    Grpo(GrpoConfig),
    /// The cross-entropy of each fact's answer, until it is known.
    Memory(MemoryObjective),
}

/// Options of `sft`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Of conversations, learn the assistant's turns only.
    pub assistant_only_loss: bool,
    /// Of prompts with a reply, learn the reply only.
    pub completion_only_loss: bool,
}

/// Options of `distill`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// The model that is learnt from: of the same vocabulary, and kept as it is.
    pub teacher: String,
    /// What logits of both are divided by.
    #[serde(default = "plain")]
    pub temperature: f64,
    /// The share of the text's own cross-entropy in the loss.
    #[serde(default)]
    pub alpha: f64,
    /// Of conversations, learn the assistant's turns only.
    #[serde(default = "yes")]
    pub assistant_only_loss: bool,
    /// Of prompts with a reply, learn the reply only.
    #[serde(default = "yes")]
    pub completion_only_loss: bool,
}

/// Options of `classify`: none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifyConfig {}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            assistant_only_loss: true,
            completion_only_loss: true,
        }
    }
}

fn plain() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// An objective, as the recipe's reader, the schema and the documents know it.
#[derive(Debug)]
pub struct Objective {
    /// Its name in a recipe: `kind = "dpo"`.
    pub kind: &'static str,
    /// What it minimises, in one sentence without a final period.
    pub summary: &'static str,
    /// What its options are.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads them, checked in themselves.
    parse: fn(&Document) -> Result<ObjectiveConfig>,
}

/// Every objective, in the order in which messages list them.
pub static OBJECTIVES: &[Objective] = &[
    Objective {
        kind: "sft",
        summary: "The cross-entropy of the next token",
        schema: SftConfig::json_schema,
        parse: |document| options(document).map(ObjectiveConfig::Sft),
    },
    Objective {
        kind: "classify",
        summary: "The cross-entropy of a document's class",
        schema: ClassifyConfig::json_schema,
        parse: |document| options(document).map(ObjectiveConfig::Classify),
    },
    Objective {
        kind: "distill",
        summary: "The divergence from what another model thinks of the next token",
        schema: DistillConfig::json_schema,
        parse: |document| distillation(document).map(ObjectiveConfig::Distill),
    },
    Objective {
        kind: "memory",
        summary: "The cross-entropy of each fact's answer, until it is known",
        schema: MemoryObjective::json_schema,
        parse: |document| options(document).map(ObjectiveConfig::Memory),
    },
    Objective {
        kind: "dpo",
        summary: "A loss of the DPO family over pairs of replies",
        schema: PreferenceConfig::json_schema,
        parse: |document| {
            checked(document, |config: &PreferenceConfig| config.terms().map(drop)).map(ObjectiveConfig::Dpo)
        },
    },
    Objective {
        kind: "orpo",
        summary: "ORPO over pairs of replies, without a reference",
        schema: OrpoConfig::json_schema,
        parse: |document| {
            let check = |config: &OrpoConfig| config.preference().0.terms().map(drop);
            checked(document, check).map(ObjectiveConfig::Orpo)
        },
    },
    Objective {
        kind: "kto",
        summary: "KTO over single replies that are good or bad",
        schema: KtoConfig::json_schema,
        parse: |document| checked(document, KtoConfig::check).map(ObjectiveConfig::Kto),
    },
    Objective {
        kind: "reward",
        summary: "The loss of a reward model over pairs of replies",
        schema: RewardConfig::json_schema,
        parse: |document| checked(document, |config| RewardLoss::new(config).map(drop)).map(ObjectiveConfig::Reward),
    },
    Objective {
        kind: "ppo",
        summary: "PPO: replies that the model writes, rewarded, against a critic",
        schema: PpoConfig::json_schema,
        parse: |document| checked(document, PpoConfig::check).map(ObjectiveConfig::Ppo),
    },
    Objective {
        kind: "grpo",
        summary: "GRPO and its kin: replies that the model writes, rewarded, against each other",
        schema: GrpoConfig::json_schema,
        parse: |document| checked(document, GrpoConfig::check).map(ObjectiveConfig::Grpo),
    },
];

const AT: &str = "objective";

fn options<T: DeserializeOwned + JsonSchema + Default>(document: &Document) -> Result<T> {
    Ok(document.section(AT, Some("kind"))?.unwrap_or_default())
}

fn checked<T: DeserializeOwned + JsonSchema + Default>(
    document: &Document,
    check: impl Fn(&T) -> align_dpo_ppo::Result<()>,
) -> Result<T> {
    let config = options(document)?;
    check(&config).map_err(|error| document.error(AT, &error.to_string(), None))?;
    Ok(config)
}

/// The objective of a recipe, checked in itself.
pub(super) fn read(document: &Document) -> Result<ObjectiveConfig> {
    let kinds: Vec<&str> = OBJECTIVES.iter().map(|objective| objective.kind).collect();
    let kind = document.kind(AT, &kinds)?;
    let Some(objective) = OBJECTIVES.iter().find(|objective| objective.kind == kind) else {
        bail!("`{kind}` is no objective")
    };
    (objective.parse)(document)
}

fn distillation(document: &Document) -> Result<DistillConfig> {
    let Some(distill) = document.section::<DistillConfig>("objective", Some("kind"))? else {
        return Err(document.error("objective", "is missing", None));
    };
    let wrong = |key: &str, what: &str| Err(document.error(&format!("objective.{key}"), what, None));
    if !(distill.temperature > 0.0 && distill.temperature.is_finite()) {
        return wrong("temperature", "wanted a number above 0; 1 to 4 are usual");
    }
    if !(0.0..1.0).contains(&distill.alpha) {
        return wrong(
            "alpha",
            "wanted a share from 0 to below 1\nhint: `kind = \"sft\"` learns from the text alone",
        );
    }
    Ok(distill)
}

impl ObjectiveConfig {
    /// Its name in a recipe.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sft(_) => "sft",
            Self::Classify(_) => "classify",
            Self::Distill(_) => "distill",
            Self::Memory(_) => "memory",
            Self::Dpo(_) => "dpo",
            Self::Orpo(_) => "orpo",
            Self::Kto(_) => "kto",
            Self::Reward(_) => "reward",
            Self::Ppo(_) => "ppo",
            Self::Grpo(_) => "grpo",
        }
    }

    /// Whether the model itself writes what it learns from.
    pub fn has_rollouts(&self) -> bool {
        matches!(self, Self::Ppo(_) | Self::Grpo(_))
    }

    /// Finds what the objective names: models, lexicons, adapters.
    pub(super) fn resolve(&mut self, document: &Document, places: &Places) -> Result<()> {
        match self {
            Self::Distill(distill) => distill.teacher = places.model(&distill.teacher),
            Self::Memory(memory) => {
                if let Some(path) = &mut memory.background {
                    *path = super::found(document, places, "objective.background", path)?;
                }
            }
            Self::Ppo(PpoConfig { rewards, .. }) | Self::Grpo(GrpoConfig { rewards, .. }) => {
                for (idx, reward) in rewards.iter_mut().enumerate() {
                    super::rewards::find(reward, places).map_err(|(key, what)| {
                        document.error(&format!("objective.rewards.{idx}.{key}"), &what, None)
                    })?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
