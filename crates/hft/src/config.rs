//! The options of half fine-tuning and of its relatives, and what cannot go together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Resample, Result};

/// What is drawn, or named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// The paper's: of each layer so many attention matrices, feed-forward matrices and norms.
    #[default]
    Category,
    /// As `category`, but of attention one of {q, o} and one of {k, v}: half its numbers, however heads are grouped.
    Stratified,
    /// Whole layers.
    Layer,
    /// Any matrices of the model, and any norms.
    #[serde(alias = "matrix")]
    #[schemars(extend("x-aliases" = ["matrix"]))]
    Model,
    /// Nothing is drawn: the last (or first) layers train, as `freeze_trainable_layers` says.
    FixedLayers,
    /// Nothing is drawn: `unfrozen_parameters` train.
    Pattern,
    /// A few random layers train, others every few steps: LISA (Pan et al. 2024, arXiv:2403.17919).
    Lisa,
}

/// What makes a [`crate::Halves`] of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HftConfig {
    /// Among which parts the frozen share is drawn.
    #[serde(alias = "hft_granularity")]
    #[schemars(extend("x-aliases" = ["hft_granularity"]))]
    pub granularity: Granularity,
    /// The share that is frozen, from 0 to below 1.
    pub freeze_ratio: f64,
    /// When it is drawn anew: `run` (once), `epoch`, or a number of optimiser steps.
    #[serde(alias = "hft_resample")]
    #[schemars(extend("x-aliases" = ["hft_resample"]))]
    pub resample: Resample,
    /// Whether every second round trains exactly what the round before it froze.
    pub complement: bool,
    /// Where the draws come from: the same seed draws the same halves.
    #[serde(alias = "hft_seed")]
    #[schemars(extend("x-aliases" = ["hft_seed"]))]
    pub seed: u64,
    /// Whether embedding and head are left out of the draw, and so train.
    pub skip_embeddings_and_head: bool,
    /// Whether the token embedding (and a head tied to it) stays as it is in every round: false, but true for
    /// `fixed_layers`; `lisa` wants to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_embeddings: Option<bool>,
    /// Whether the output layer and the norm before it stay as they are: as `freeze_embeddings`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_head: Option<bool>,
    /// For `fixed_layers`: so many of the last layers train; of the first, if negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_trainable_layers: Option<i64>,
    /// For `pattern`: regular expressions; a parameter trains if one of them is found in its path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfrozen_parameters: Vec<String>,
    /// For `lisa`: how many layers train at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lisa_n_layers: Option<usize>,
    /// For `lisa`: after how many steps they are drawn anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lisa_step_interval: Option<std::num::NonZeroUsize>,
}

impl Default for HftConfig {
    fn default() -> Self {
        Self {
            granularity: Granularity::Category,
            freeze_ratio: HALF,
            resample: Resample::Run,
            complement: false,
            seed: 0,
            skip_embeddings_and_head: true,
            freeze_embeddings: None,
            freeze_head: None,
            freeze_trainable_layers: None,
            unfrozen_parameters: Vec::new(),
            lisa_n_layers: None,
            lisa_step_interval: None,
        }
    }
}

const HALF: f64 = 0.5;

impl HftConfig {
    /// Refuses what cannot be, and what would be ignored.
    pub fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.freeze_ratio) {
            return wrong(
                "freeze_ratio",
                format!("{} is no share from 0 to below 1", self.freeze_ratio),
                "0.5 is half; 0.4 to 0.6 work alike in the paper",
            );
        }
        let idle = |option, is_idle: bool, hint| {
            if !is_idle {
                return Ok(());
            }
            let found = format!("has no effect with `granularity = \"{}\"`", self.granularity.name());
            wrong(option, found, hint)
        };
        let (fixed, pattern, lisa) = (
            self.granularity == Granularity::FixedLayers,
            self.granularity == Granularity::Pattern,
            self.granularity == Granularity::Lisa,
        );
        let named = fixed || pattern || lisa;
        idle("freeze_ratio", named && self.freeze_ratio != HALF, "remove it")?;
        idle("resample", named && self.resample != Resample::Run, RESAMPLE)?;
        idle("complement", named && self.complement, "remove it")?;
        let ends = "use `freeze_embeddings` and `freeze_head`";
        idle(
            "skip_embeddings_and_head",
            named && !self.skip_embeddings_and_head,
            ends,
        )?;
        let by_pattern = "name the parameters in `unfrozen_parameters`";
        idle(
            "freeze_embeddings",
            pattern && self.freeze_embeddings.is_some(),
            by_pattern,
        )?;
        idle("freeze_head", pattern && self.freeze_head.is_some(), by_pattern)?;
        let set = "set `granularity = \"fixed_layers\"`";
        idle(
            "freeze_trainable_layers",
            !fixed && self.freeze_trainable_layers.is_some(),
            set,
        )?;
        let set = "set `granularity = \"pattern\"`";
        idle(
            "unfrozen_parameters",
            !pattern && !self.unfrozen_parameters.is_empty(),
            set,
        )?;
        let set = "set `granularity = \"lisa\"`";
        idle("lisa_n_layers", !lisa && self.lisa_n_layers.is_some(), set)?;
        idle("lisa_step_interval", !lisa && self.lisa_step_interval.is_some(), set)?;
        self.check_complement()?;
        self.check_needed()?;
        if !self.skip_embeddings_and_head && (self.freeze_embeddings.is_some() || self.freeze_head.is_some()) {
            return wrong(
                "skip_embeddings_and_head",
                "false puts embedding and head into the draw, beside an option that decides about them".into(),
                "keep one of the two",
            );
        }
        Ok(())
    }

    fn check_complement(&self) -> Result<()> {
        if !self.complement {
            return Ok(());
        }
        if self.resample == Resample::Run {
            let found = "there is one round only, as `resample = \"run\"`".into();
            return wrong("complement", found, "set `resample` to \"epoch\" or a number of steps");
        }
        if self.freeze_ratio != HALF {
            let found = format!(
                "the other side of `freeze_ratio = {}` has another size",
                self.freeze_ratio
            );
            return wrong("complement", found, "set `freeze_ratio = 0.5`");
        }
        Ok(())
    }

    fn check_needed(&self) -> Result<()> {
        let missing = |option, hint| wrong(option, "is missing".into(), hint);
        match self.granularity {
            Granularity::FixedLayers if self.freeze_trainable_layers.is_none_or(|layers| layers == 0) => missing(
                "freeze_trainable_layers",
                "2 trains the last two layers, -2 the first two",
            ),
            Granularity::Pattern if self.unfrozen_parameters.is_empty() => {
                missing("unfrozen_parameters", "[\"mlp\"] trains the feed-forward layers")
            }
            Granularity::Lisa if self.lisa_n_layers.is_none_or(|layers| layers == 0) => {
                missing("lisa_n_layers", "2 layers at a time are usual")
            }
            Granularity::Lisa if self.lisa_step_interval.is_none() => {
                missing("lisa_step_interval", "5 to 50 steps are usual")
            }
            Granularity::Lisa if self.freeze_embeddings.is_none() => missing(
                "freeze_embeddings",
                "LISA's authors train it (false), which is most of what a small model trains",
            ),
            Granularity::Lisa if self.freeze_head.is_none() => {
                missing("freeze_head", "LISA's authors train it (false)")
            }
            _ => Ok(()),
        }
    }

    /// When rounds end: `resample`, or LISA's interval.
    pub fn rounds(&self) -> Resample {
        self.lisa_step_interval.map_or(self.resample, Resample::Steps)
    }

    /// Whether the embedding is frozen in every round, and whether the head is.
    pub(crate) fn frozen_ends(&self) -> (bool, bool) {
        let usual = self.granularity == Granularity::FixedLayers;
        (
            self.freeze_embeddings.unwrap_or(usual),
            self.freeze_head.unwrap_or(usual),
        )
    }
}

const RESAMPLE: &str = "a named choice stays; `lisa` draws every `lisa_step_interval` steps";

impl Granularity {
    /// The word in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Category => "category",
            Self::Stratified => "stratified",
            Self::Layer => "layer",
            Self::Model => "model",
            Self::FixedLayers => "fixed_layers",
            Self::Pattern => "pattern",
            Self::Lisa => "lisa",
        }
    }
}

fn wrong<T>(option: &'static str, found: String, hint: &'static str) -> Result<T> {
    Err(Error::Option { option, found, hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> HftConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_resolved_table_reads_back_the_same() {
        for text in [
            "",
            "hft_granularity = \"matrix\"\nhft_resample = \"stage\"\nhft_seed = 3",
            "granularity = \"lisa\"\nlisa_n_layers = 2\nlisa_step_interval = 5\nfreeze_embeddings = false\nfreeze_head = true",
            "granularity = \"fixed_layers\"\nfreeze_trainable_layers = -2",
            "resample = 7\ncomplement = true",
        ] {
            let config = parse(text);
            config.check().unwrap();
            assert_eq!(parse(&toml::to_string(&config).unwrap()), config, "{text}");
        }
        assert_eq!(parse("granularity = \"matrix\"").granularity, Granularity::Model);
    }

    #[test]
    fn what_cannot_be_or_would_be_ignored_is_refused() {
        for (text, needles) in [
            ("freeze_ratio = 1.0", ["freeze_ratio", "below 1"]),
            ("freeze_ratio = -0.1", ["freeze_ratio", "-0.1"]),
            ("complement = true", ["complement", "resample"]),
            (
                "complement = true\nresample = 2\nfreeze_ratio = 0.4",
                ["complement", "0.4"],
            ),
            ("lisa_n_layers = 2", ["lisa_n_layers", "no effect"]),
            ("granularity = \"lisa\"", ["lisa_n_layers", "missing"]),
            (
                "granularity = \"lisa\"\nlisa_n_layers = 2",
                ["lisa_step_interval", "missing"],
            ),
            (
                "granularity = \"lisa\"\nlisa_n_layers = 2\nlisa_step_interval = 5",
                ["freeze_embeddings", "missing"],
            ),
            ("granularity = \"fixed_layers\"", ["freeze_trainable_layers", "missing"]),
            (
                "granularity = \"fixed_layers\"\nfreeze_trainable_layers = 2\nresample = 3",
                ["resample", "no effect"],
            ),
            ("granularity = \"pattern\"", ["unfrozen_parameters", "missing"]),
            (
                "granularity = \"pattern\"\nunfrozen_parameters = [\"mlp\"]\nfreeze_ratio = 0.3",
                ["freeze_ratio", "no effect"],
            ),
            (
                "skip_embeddings_and_head = false\nfreeze_head = true",
                ["skip_embeddings_and_head", "keep one"],
            ),
        ] {
            let error = parse(text).check().unwrap_err().to_string();
            assert!(needles.iter().all(|needle| error.contains(needle)), "{text}: {error}");
        }
    }
}
