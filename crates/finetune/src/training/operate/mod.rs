//! The recipe's surgeries on a model, in order: each kind is a file here.

mod adapter;
mod dora;
mod full;
pub mod hft;
mod lora;
mod memory;
mod quantize;

use ::dora::DoraConfig;
use ::lora::LoraConfig;
use adapters::AdapterConfig;
use anyhow::{Context, Result, bail};
use decoder::Decoder;
use memory_tuning::MemoryBank;
use tensor_core::ModulePath;

pub use self::quantize::load;
use crate::machine::Dtype;
use crate::quantised::Quantisation;
use crate::recipe::{Recipe, Surgery};

/// A model that trains, and how it is kept.
#[derive(Debug)]
pub struct Operated {
    /// The model.
    pub model: Decoder,
    /// What is written.
    pub kept: Kept,
    /// How the base under an adapter was packed, if it was.
    pub quantisation: Option<Quantisation>,
    /// In words, for people.
    pub what: String,
}

/// What is written of a model.
#[derive(Debug)]
pub enum Kept {
    /// An adapter for the base it was trained on.
    Adapter {
        /// As `adapter_config.json` shall say it.
        config: LoraConfig,
        /// The wrapped modules.
        targets: Vec<ModulePath>,
    },
    /// A DoRA adapter for the base it was trained on.
    Decomposed {
        /// As `adapter_config.json` shall say it.
        config: DoraConfig,
        /// The modules with magnitudes.
        targets: Vec<ModulePath>,
        /// Those of them whose direction stays, with the shapes of their weights.
        still: Vec<(ModulePath, [i64; 2])>,
    },
    /// Bottleneck adapters for the base they were trained on.
    Bottleneck(AdapterConfig),
    /// Memories for the base that they were trained on.
    Memory(MemoryBank),
    /// The whole model.
    Whole,
}

/// A model between two surgeries: nothing says yet what is written until one of them makes something train.
struct Patient {
    model: Decoder,
    kept: Option<Kept>,
    what: Vec<String>,
}

/// Applies the recipe's surgeries; `model` has its final head.
pub fn operate(model: Decoder, recipe: &Recipe) -> Result<Operated> {
    let mut patient = Patient {
        model,
        kept: None,
        what: Vec::new(),
    };
    for (idx, surgery) in recipe.surgery.iter().enumerate() {
        patient = match surgery {
            Surgery::Quantize(config) => Ok(quantize::operate(patient, config)),
            Surgery::Lora(config) => lora::operate(patient, config),
            Surgery::Dora(config) => dora::operate(patient, config),
            Surgery::Adapter(config) => adapter::operate(patient, config),
            Surgery::Full(config) => full::operate(patient, config),
            Surgery::Memory(config) => memory::operate(patient, config),
            Surgery::Hft(config) => hft::operate(patient, config),
        }
        .with_context(|| format!("`surgery.{idx}`"))?;
    }
    let Some(kept) = patient.kept else {
        bail!("no surgery of this recipe makes anything train\nhint: add `[[surgery]]` with `kind = \"lora\"`");
    };
    let quantisation = match recipe.surgery.first() {
        Some(Surgery::Quantize(config)) => Some(Quantisation {
            config: config.clone(),
            dtype: Dtype::of(patient.model.kind()),
        }),
        _ => None,
    };
    Ok(Operated {
        model: patient.model,
        quantisation,
        kept,
        what: patient.what.join(", "),
    })
}
