//! Options of bottleneck adapters, under AdapterHub's names.
//!
//! `config` names a placement and its defaults; every field beside it changes one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Activation, Error, Result};

/// A placement with its defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Behind attention and behind the feed-forward: Houlsby's.
    #[serde(alias = "houlsby")]
    #[schemars(extend("x-aliases" = ["houlsby"]))]
    DoubleSeqBn,
    /// Behind the feed-forward: Pfeiffer's.
    #[default]
    #[serde(alias = "pfeiffer")]
    #[schemars(extend("x-aliases" = ["pfeiffer"]))]
    SeqBn,
    /// Beside the feed-forward: He's.
    #[serde(alias = "parallel")]
    #[schemars(extend("x-aliases" = ["parallel"]))]
    ParBn,
}

/// How many times narrower than the model an adapter is: one number, or one a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "wanted a number, or numbers by layer such as { default = 16, 11 = 8 }"
)]
pub enum ReductionFactor {
    /// For every layer.
    All(f64),
    /// By the layer's number; `default` for the layers that are not named.
    ByLayer(BTreeMap<String, f64>),
}

/// What the adapter's output is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "wanted a number or \"learned\"")]
pub enum Scaling {
    /// A number.
    Fixed(f64),
    /// A number that trains, from 1.
    Learned(Learned),
}

/// The word `learned`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Learned {
    /// The only word.
    Learned,
}

impl Scaling {
    /// A number that trains.
    pub const LEARNED: Self = Self::Learned(Learned::Learned);
}

/// How the two matrices begin; biases begin as zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitWeights {
    /// `W_down` as `bert`, `W_up` zero: the adapter is nothing at step 0.
    #[default]
    Zero,
    /// Both normal with deviation 0.02: AdapterHub's default.
    Bert,
    /// `W_down` uniform in `±1/√d` (Kaiming with a = √5), `W_up` zero.
    #[serde(rename = "mam_adapter", alias = "mam")]
    #[schemars(extend("x-aliases" = ["mam"]))]
    Mam,
    /// Both normal with deviation 0.01, cut off at two deviations.
    Houlsby,
}

/// What makes adapters of a model's sublayers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Options")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct AdapterConfig {
    /// The placement whose defaults the other options begin with.
    pub config: Preset,
    /// Whether there is an adapter at attention.
    pub mh_adapter: bool,
    /// Whether there is an adapter at the feed-forward.
    pub output_adapter: bool,
    /// How many times narrower than the model the adapter is: its width is `hidden_size / reduction_factor`, rounded
    /// down, at least 1. One number, or numbers by layer.
    pub reduction_factor: ReductionFactor,
    /// The function between the adapter's two matrices.
    pub non_linearity: Activation,
    /// Whether the adapter reads the input of attention or feed-forward instead of their output.
    pub is_parallel: bool,
    /// What the adapter's output is multiplied by: a number, or `learned` for a number that trains, from 1.
    pub scaling: Scaling,
    /// How the two matrices begin.
    pub init_weights: InitWeights,
    /// Layers without adapters, counted from 0.
    pub leave_out: Vec<usize>,
    /// Probability of dropping a number of the adapter's output while training.
    pub dropout: f64,
    /// Whether the model's own norms train too, as Houlsby's do. They have no other state: with adapters off they
    /// stay as they were trained.
    pub train_norms: bool,
    /// The seed of the matrices.
    pub seed: u64,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self::of(Preset::default())
    }
}

impl AdapterConfig {
    /// The defaults of a placement.
    pub fn of(config: Preset) -> Self {
        let (reduction_factor, scaling) = match config {
            Preset::ParBn => (2.0, 4.0),
            _ => (16.0, 1.0),
        };
        Self {
            config,
            mh_adapter: config == Preset::DoubleSeqBn,
            output_adapter: true,
            reduction_factor: ReductionFactor::All(reduction_factor),
            non_linearity: if config == Preset::DoubleSeqBn {
                Activation::Swish
            } else {
                Activation::Relu
            },
            is_parallel: config == Preset::ParBn,
            scaling: Scaling::Fixed(scaling),
            init_weights: InitWeights::default(),
            leave_out: Vec::new(),
            dropout: 0.0,
            train_norms: false,
            seed: 0,
        }
    }

    /// m of the adapters of `layer` in a model of width `width`.
    pub fn bottleneck(&self, width: i64, layer: usize) -> Result<i64> {
        let factor = match &self.reduction_factor {
            ReductionFactor::All(factor) => *factor,
            ReductionFactor::ByLayer(factors) => {
                let named = factors.get(&layer.to_string()).or_else(|| factors.get("default"));
                *named.ok_or_else(|| Error::Option {
                    option: "reduction_factor",
                    found: format!("no factor for layer {layer}, and no `default`"),
                    hint: "add `default = 16`".into(),
                })?
            }
        };
        Ok(((width as f64 / factor) as i64).max(1))
    }

    /// Numbers that train in a model of `layers` layers of width `width`, its norms left out; 0 where a layer has no
    /// factor.
    pub fn num_parameters(&self, width: i64, layers: usize) -> usize {
        let places = usize::from(self.mh_adapter) + usize::from(self.output_adapter);
        let scale = usize::from(self.scaling == Scaling::LEARNED);
        let of = |layer: usize| {
            let m = self.bottleneck(width, layer).unwrap_or(0) as usize;
            let d = width as usize;
            places * (2 * m * d + m + d + scale)
        };
        (0..layers)
            .filter(|layer| !self.leave_out.contains(layer))
            .map(of)
            .sum()
    }

    /// Every value is one that can work.
    fn checked(self) -> Result<Self> {
        let refuse = |option, found: String, hint: &str| {
            Err(Error::Option {
                option,
                found,
                hint: hint.into(),
            })
        };
        let factors: Vec<f64> = match &self.reduction_factor {
            ReductionFactor::All(factor) => vec![*factor],
            ReductionFactor::ByLayer(factors) => factors.values().copied().collect(),
        };
        if let Some(factor) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
            let found = format!("{factor}, wanted a number above 0");
            return refuse(
                "reduction_factor",
                found,
                "16 is usual; 0.5 makes adapters twice as wide as the model",
            );
        }
        if let ReductionFactor::ByLayer(factors) = &self.reduction_factor
            && let Some(key) = factors
                .keys()
                .find(|key| *key != "default" && key.parse::<usize>().is_err())
        {
            let found = format!("`{key}` is no layer's number");
            return refuse(
                "reduction_factor",
                found,
                "keys are layers, counted from 0, and `default`",
            );
        }
        if let Scaling::Fixed(scale) = self.scaling
            && !(scale.is_finite() && scale != 0.0)
        {
            return refuse("scaling", format!("{scale}"), "1.0 and 4.0 are usual, or \"learned\"");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let found = format!("{} is no probability below 1", self.dropout);
            return refuse("dropout", found, "0 to 0.1 are usual");
        }
        if !(self.mh_adapter || self.output_adapter) {
            let found = "false, as `mh_adapter` is".to_owned();
            return refuse(
                "output_adapter",
                found,
                "adapters go behind attention, the feed-forward, or both",
            );
        }
        Ok(self)
    }
}

/// The fields as they are written: what is left out is the placement's.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The placement whose defaults the other options begin with.
    #[serde(default)]
    config: Preset,
    /// Whether there is an adapter at attention.
    mh_adapter: Option<bool>,
    /// Whether there is an adapter at the feed-forward.
    output_adapter: Option<bool>,
    /// How many times narrower than the model the adapter is: its width is `hidden_size / reduction_factor`, rounded
    /// down, at least 1. One number, or numbers by layer.
    reduction_factor: Option<ReductionFactor>,
    /// The function between the adapter's two matrices.
    non_linearity: Option<Activation>,
    /// Whether the adapter reads the input of attention or feed-forward instead of their output.
    is_parallel: Option<bool>,
    /// What the adapter's output is multiplied by: a number, or `learned` for a number that trains, from 1.
    scaling: Option<Scaling>,
    /// How the two matrices begin.
    init_weights: Option<InitWeights>,
    /// Layers without adapters, counted from 0.
    leave_out: Option<Vec<usize>>,
    /// Probability of dropping a number of the adapter's output while training.
    dropout: Option<f64>,
    /// Whether the model's own norms train too, as Houlsby's do. They have no other state: with adapters off they
    /// stay as they were trained.
    train_norms: Option<bool>,
    /// The seed of the matrices.
    seed: Option<u64>,
}

impl TryFrom<Options> for AdapterConfig {
    type Error = Error;

    fn try_from(options: Options) -> Result<Self> {
        let of = Self::of(options.config);
        Self {
            config: of.config,
            mh_adapter: options.mh_adapter.unwrap_or(of.mh_adapter),
            output_adapter: options.output_adapter.unwrap_or(of.output_adapter),
            reduction_factor: options.reduction_factor.unwrap_or(of.reduction_factor),
            non_linearity: options.non_linearity.unwrap_or(of.non_linearity),
            is_parallel: options.is_parallel.unwrap_or(of.is_parallel),
            scaling: options.scaling.unwrap_or(of.scaling),
            init_weights: options.init_weights.unwrap_or(of.init_weights),
            leave_out: options.leave_out.unwrap_or(of.leave_out),
            dropout: options.dropout.unwrap_or(of.dropout),
            train_norms: options.train_norms.unwrap_or(of.train_norms),
            seed: options.seed.unwrap_or(of.seed),
        }
        .checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AdapterConfig, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn placements_have_adapterhub_s_defaults() {
        let (houlsby, pfeiffer, he) = (
            read(r#"{"config": "houlsby"}"#).unwrap(),
            read("{}").unwrap(),
            read(r#"{"config": "par_bn"}"#).unwrap(),
        );
        assert_eq!((houlsby.mh_adapter, houlsby.non_linearity), (true, Activation::Swish));
        assert_eq!((pfeiffer.mh_adapter, pfeiffer.non_linearity), (false, Activation::Relu));
        assert_eq!((he.is_parallel, he.scaling), (true, Scaling::Fixed(4.0)));
        let factors = [houlsby, pfeiffer, he].map(|config| config.bottleneck(576, 0).unwrap());
        assert_eq!(factors, [36, 36, 288]);
    }

    #[test]
    fn fields_change_the_placement_and_read_back() {
        let config = read(
            r#"{"config": "seq_bn", "scaling": "learned", "non_linearity": "silu", "init_weights": "mam",
                "reduction_factor": {"default": 16, "3": 7.5}, "leave_out": [0, 29]}"#,
        )
        .unwrap();
        assert_eq!(
            (config.bottleneck(576, 3).unwrap(), config.bottleneck(576, 4).unwrap()),
            (76, 36)
        );
        assert_eq!(
            (config.scaling, config.init_weights),
            (Scaling::LEARNED, InitWeights::Mam)
        );
        let written = serde_json::to_string(&config).unwrap();
        assert!(
            written.contains("\"mam_adapter\"") && written.contains("\"swish\""),
            "{written}"
        );
        assert_eq!(read(&written).unwrap(), config);
        // By hand: layers 1 to 28 but 3 with m = 36, layer 3 with 76; each with a scale.
        let of = |m: usize| 2 * m * 576 + m + 576 + 1;
        assert_eq!(config.num_parameters(576, 30), 27 * of(36) + of(76));
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_a_hint() {
        for (text, wanted) in [
            (r#"{"reduction_factor": 0}"#, "`reduction_factor`: 0"),
            (r#"{"reduction_factor": {"first": 2}}"#, "`first` is no layer's number"),
            (r#"{"dropout": 1.0}"#, "`dropout`: 1"),
            (r#"{"scaling": 0.0}"#, "`scaling`: 0"),
            (r#"{"output_adapter": false}"#, "`output_adapter`"),
            (r#"{"non_linearity": "tanh"}"#, "`relu`, `gelu`, `silu`, `swish`"),
            (r#"{"use_gating": true}"#, "`use_gating`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let partial = read(r#"{"reduction_factor": {"0": 2}}"#).unwrap();
        assert!(
            partial
                .bottleneck(32, 1)
                .unwrap_err()
                .to_string()
                .contains("no factor for layer 1")
        );
    }
}
