//! `[objective]`: which kind, and its options.

use align_dpo_ppo::RewardLoss;
use anyhow::Result;

use super::{DistillConfig, Document, ObjectiveConfig};

const KINDS: &[&str] = &["sft", "classify", "distill", "memory", "dpo", "orpo", "kto", "reward"];

/// The objective of a recipe, checked in itself.
pub(super) fn read(document: &Document) -> Result<ObjectiveConfig> {
    let at = "objective";
    let kind = document.kind(at, KINDS)?;
    let skip = Some("kind");
    let refused = |error: align_dpo_ppo::Error| document.error(at, &error.to_string(), None);
    Ok(match kind {
        "sft" => ObjectiveConfig::Sft(document.section(at, skip)?.unwrap_or_default()),
        "classify" => ObjectiveConfig::Classify(document.section(at, skip)?.unwrap_or_default()),
        "distill" => ObjectiveConfig::Distill(distillation(document)?),
        "memory" => ObjectiveConfig::Memory(document.section(at, skip)?.unwrap_or_default()),
        "dpo" => {
            let config: align_dpo_ppo::preference::PreferenceConfig = document.section(at, skip)?.unwrap_or_default();
            config.terms().map_err(refused)?;
            ObjectiveConfig::Dpo(config)
        }
        "orpo" => {
            let config: align_dpo_ppo::preference::OrpoConfig = document.section(at, skip)?.unwrap_or_default();
            config.preference().0.terms().map_err(refused)?;
            ObjectiveConfig::Orpo(config)
        }
        "kto" => {
            let config: align_dpo_ppo::KtoConfig = document.section(at, skip)?.unwrap_or_default();
            config.check().map_err(refused)?;
            ObjectiveConfig::Kto(config)
        }
        _ => {
            let config = document.section(at, skip)?.unwrap_or_default();
            RewardLoss::new(&config).map_err(refused)?;
            ObjectiveConfig::Reward(config)
        }
    })
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
        }
    }
}
