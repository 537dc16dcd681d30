//! `[[surgery]]`: what is put into the model before training, in order.

use adapters::AdapterConfig;
use anyhow::{Result, bail};
use dora::DoraConfig;
use hft::HftConfig;
use lora::LoraConfig;
use memory_tuning::MemoryConfig;
use moe::UpcycleConfig;
use quant::QuantizeConfig;
use serde::{Deserialize, Serialize};

use super::places::Places;
use super::prune::PruneSurgery;
use super::{Document, low_rank, prune};

/// One change to the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Surgery {
    /// Frozen weights in 4 or 8 bits.
    Quantize(QuantizeConfig),
    /// Low-rank updates beside frozen weights.
    Lora(LoraConfig),
    /// Low-rank updates of directions, and magnitudes.
    Dora(DoraConfig),
    /// Bottleneck adapters behind or beside frozen sublayers.
    Adapter(AdapterConfig),
    /// The model's own parameters train.
    Full(FullConfig),
    /// A random half of the model's own parameters trains.
    Hft(HftConfig),
    /// Each dense feed-forward becomes a mixture of experts.
    Upcycle(UpcycleConfig),
    /// Weights of the model become zero.
    Prune(PruneSurgery),
    /// What was pruned from the model stays zero under what trains.
    KeepZeros(KeepZerosConfig),
    /// A mixture of memory experts beside frozen weights.
    Memory(MemoryConfig),
}

impl Surgery {
    /// Whether it comes before what the model's zeros are.
    pub fn makes_zeros(&self) -> bool {
        matches!(self, Self::Prune(_) | Self::Quantize(_))
    }

    /// The probability with which what it makes drops out of training.
    pub fn dropout(&self) -> f64 {
        match self {
            Self::Lora(config) => config.lora_dropout,
            Self::Dora(config) => config.lora.lora_dropout,
            Self::Adapter(config) => config.dropout,
            _ => 0.0,
        }
    }

    /// Whether the model says something else once it is made, before any step.
    pub fn changes_the_model(&self) -> bool {
        matches!(self, Self::Quantize(_) | Self::Prune(_) | Self::Upcycle(_))
    }

    /// Whether what it makes is kept beside its base.
    pub fn is_adapter(&self) -> bool {
        matches!(self, Self::Lora(_) | Self::Dora(_) | Self::Adapter(_) | Self::Memory(_))
    }
}

/// Options of `keep_zeros`: none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepZerosConfig {}

/// Options of `full`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FullConfig {
    /// Regular expressions; a parameter trains if one of them is found in its path. Everything trains by default.
    pub unfrozen_parameters: Vec<String>,
    /// Whether the token embedding (and a head tied to it) stays as it is.
    pub freeze_embeddings: bool,
}

impl Default for FullConfig {
    fn default() -> Self {
        Self {
            unfrozen_parameters: vec![".*".to_owned()],
            freeze_embeddings: false,
        }
    }
}

const KINDS: &[&str] = &[
    "quantize",
    "lora",
    "dora",
    "adapter",
    "full",
    "hft",
    "upcycle",
    "prune",
    "keep_zeros",
    "memory",
];

/// All surgeries of a recipe; one without a seed of its own takes the run's.
pub(super) fn read(document: &Document, seed: u64, places: &Places) -> Result<Vec<Surgery>> {
    let count = document.count("surgery")?;
    if count == 0 {
        bail!(
            "`{}`: no `[[surgery]]`, so nothing would train\nhint: add `[[surgery]]` with `kind = \"lora\"` for an adapter, or `kind = \"full\"` for all parameters",
            document.path().display()
        );
    }
    (0..count)
        .map(|idx| {
            let at = format!("surgery.{idx}");
            Ok(match document.kind(&at, KINDS)? {
                "quantize" => Surgery::Quantize(document.section(&at, Some("kind"))?.unwrap_or_default()),
                kind @ ("lora" | "dora") => low_rank::read(document, &at, kind, seed)?,
                "adapter" => {
                    let mut config: AdapterConfig = document.section(&at, Some("kind"))?.unwrap_or_default();
                    if !has_seed(document, &at)? {
                        config.seed = seed;
                    }
                    Surgery::Adapter(config)
                }
                "upcycle" => {
                    let mut config: UpcycleConfig = document.section(&at, Some("kind"))?.unwrap_or_default();
                    if !has_seed(document, &at)? {
                        config.seed = seed;
                    }
                    config
                        .check()
                        .map_err(|error| document.error(&at, &error.to_string(), None))?;
                    Surgery::Upcycle(config)
                }
                "hft" => {
                    let mut config: HftConfig = document.section(&at, Some("kind"))?.unwrap_or_default();
                    if !has_seed(document, &at)? {
                        config.seed = seed;
                    }
                    config
                        .check()
                        .map_err(|error| document.error(&at, &error.to_string(), None))?;
                    Surgery::Hft(config)
                }
                "prune" => Surgery::Prune(prune::read(document, &at, seed, places)?),
                "keep_zeros" => Surgery::KeepZeros(document.section(&at, Some("kind"))?.unwrap_or_default()),
                "memory" => {
                    let mut config: MemoryConfig = document.section(&at, Some("kind"))?.unwrap_or_default();
                    if !has_seed(document, &at)? {
                        config.seed = seed;
                    }
                    config
                        .check()
                        .map_err(|error| document.error(&at, &error.to_string(), None))?;
                    config.continue_from = config
                        .continue_from
                        .map(|path| std::path::absolute(&path).unwrap_or(path));
                    Surgery::Memory(config)
                }
                _ => Surgery::Full(document.section(&at, Some("kind"))?.unwrap_or_default()),
            })
        })
        .collect()
}

fn has_seed(document: &Document, at: &str) -> Result<bool> {
    let table = document.section::<toml::Table>(at, None)?;
    Ok(table.is_some_and(|table| table.contains_key("seed") || table.contains_key("hft_seed")))
}
