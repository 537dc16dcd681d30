//! `kind = "prune"`: weights become zero before anything trains.

use anyhow::Result;

use super::Patient;
use crate::model::Source;
use crate::pruning::{self, Samples};
use crate::recipe::{PruneSurgery, Recipe};

pub(super) fn operate(patient: Patient, config: &PruneSurgery, recipe: &Recipe) -> Result<Patient> {
    let Patient { model, kept, mut what } = patient;
    let plan = config.rule.plan()?;
    let samples = match plan.needs_calibration() {
        true => {
            let tokenizer = Source::of(&recipe.model)?.tokenizer()?;
            Samples::read(&config.text, true, &tokenizer, model.config())?
        }
        false => None,
    };
    let (model, thinned) = pruning::thin(model, &plan, samples.as_ref())?;
    let (zeros, all) = thinned.iter().fold((0, 0), |(zeros, all), one| {
        (zeros + one.num_zeros, all + (one.shape[0] * one.shape[1]) as usize)
    });
    what.push(format!(
        "{:.1} % of {} matrices pruned by {}",
        100.0 * zeros as f64 / all as f64,
        thinned.len(),
        config.rule.method.name()
    ));
    Ok(Patient { model, kept, what })
}
