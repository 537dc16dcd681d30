//! The recipe's surgeries on a model, in order: each kind is a file here.

mod adapter;
mod dora;
mod full;
pub mod hft;
mod keep_zeros;
mod lora;
mod memory;
mod prune;
mod quantize;
mod upcycle;

use ::dora::DoraConfig;
use ::lora::{LoraConfig, Originals};
use adapters::AdapterConfig;
use anyhow::{Context, Result, bail};
use decoder::Decoder;
use memory_tuning::MemoryBank;
use tch::Tensor;
use tensor_core::ModulePath;

pub use self::quantize::load;
use crate::machine::Dtype;
use crate::model::Source;
use crate::quantised::Quantisation;
use crate::recipe::{Recipe, Surgery};
use crate::zeros::Zeros;

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
        /// Whether the base's zeros stay under it.
        keeps_zeros: bool,
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
///
/// Errors: what [`Recipe::fits`] refuses, and what only the weights tell.
pub fn operate(model: Decoder, recipe: &Recipe, source: &Source) -> Result<Operated> {
    recipe.fits(source.dir())?;
    let keeps_zeros = recipe
        .surgery
        .iter()
        .position(|surgery| matches!(surgery, Surgery::KeepZeros(_)));
    let mut zeros = None;
    let mut patient = Patient {
        model,
        kept: None,
        what: Vec::new(),
    };
    // Weights as they were, one by one from the files, where the first surgery has quantised them.
    let kind = patient.model.kind();
    let dense = |at: &ModulePath| -> tensor_core::Result<Tensor> {
        let weight = source.dir().tensor_as(&source.stored(at.join("weight").as_str()), kind);
        weight.map_err(|error| tensor_core::Error::Surgery {
            at: at.clone(),
            source: Box::new(error),
        })
    };
    let is_quantised = matches!(recipe.surgery.first(), Some(Surgery::Quantize(_)));
    let originals: Option<&Originals> = is_quantised.then_some(&dense);
    for (idx, surgery) in recipe.surgery.iter().enumerate() {
        // What is zero is seen before anything lies over it.
        if let (Some(keeps), None, false) = (keeps_zeros, &zeros, surgery.makes_zeros()) {
            if is_quantised {
                Zeros::expect_before(&patient.model, dense).with_context(|| format!("`surgery.{keeps}`"))?;
            }
            let (model, found) = Zeros::of(patient.model).with_context(|| format!("`surgery.{keeps}`"))?;
            patient.model = model;
            zeros = Some(found);
        }
        patient = match surgery {
            Surgery::Quantize(config) => Ok(quantize::operate(patient, config)),
            Surgery::Lora(config) => lora::operate(patient, config, originals),
            Surgery::Dora(config) => dora::operate(patient, config, originals),
            Surgery::Adapter(config) => adapter::operate(patient, config),
            Surgery::Full(config) => full::operate(patient, config),
            Surgery::Memory(config) => memory::operate(patient, config),
            Surgery::Hft(config) => hft::operate(patient, config),
            Surgery::Upcycle(config) => upcycle::operate(patient, config, &recipe.router_options()),
            Surgery::Prune(config) => prune::operate(patient, config, recipe),
            Surgery::KeepZeros(_) => keep_zeros::operate(patient, zeros.take()),
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
        _ => Quantisation::of_model(source.dir())?,
    };
    Ok(Operated {
        model: patient.model,
        quantisation,
        kept,
        what: patient.what.join(", "),
    })
}
