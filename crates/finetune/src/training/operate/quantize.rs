//! `kind = "quantize"`: frozen weights in 4 or 8 bits, packed one by one as the model is read.

use anyhow::Result;
use decoder::{Decoder, projection_paths};
use quant::{QuantizeConfig, Quantizing};

use super::Patient;
use crate::machine::Machine;
use crate::model::Source;
use crate::recipe::{Recipe, Surgery};

/// The recipe's model; if its first surgery quantises, no dense weight outlives the reading of the next.
pub fn load(source: &Source, machine: Machine, recipe: &Recipe) -> Result<Decoder> {
    let router = recipe.router_options();
    let Some(Surgery::Quantize(config)) = recipe.surgery.first() else {
        return source.decoder_routed(machine, &router, &mut |_, projection| Ok(projection));
    };
    let quantizing = Quantizing::choose(config.clone(), &projection_paths(source.dir().config()))?;
    source.decoder_routed(machine, &router, &mut |at, base| quantizing.projection(at, base))
}

/// What [`load`] has done, in words.
pub(super) fn operate(mut patient: Patient, config: &QuantizeConfig) -> Patient {
    let paths = patient.model.projection_paths();
    let (scheme, block) = (config.scheme, config.block_size);
    patient.what.push(format!(
        "{scheme} in blocks of {} ({:.2} bits a weight) under {} of {} projections",
        block.get(),
        scheme.bits_per_parameter(block, config.double_quant),
        paths.iter().filter(|(path, _)| !config.skips(path)).count(),
        paths.len(),
    ));
    patient
}
