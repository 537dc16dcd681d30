//! The reference of an objective: the base beneath the adapters, or a second model; and what is known of it already.

use std::path::Path;

use align_dpo_ppo::{Reference, ReplyRow, open_log_probs, save_log_probs};
use anyhow::{Context as _, Result};
use data::TokenSet;
use events::Events;
use methods::Adapted;
use methods::recipe::{Recipe, Surgery};
use models::Source;
use models::machine::Machine;
use tensor_core::{Checkpointing, CheckpointingPolicy, LanguageModel, ModelPass};

use super::rows::ToRow as _;
use super::sets::Sets;
use super::steps::Steps;

/// Log-probabilities of every reply under the reference, by set: the better and the worse one of each sample in turn.
#[derive(Debug, Default)]
pub struct Known {
    /// Of the training sets.
    pub train: Vec<Vec<f32>>,
    /// Of the evaluation sets.
    pub eval: Vec<Vec<f32>>,
}

/// The reference of what `recipe` trains: its own base where only adapters train, else the model as it was.
pub fn choose(recipe: &Recipe, source: &Source, machine: Machine, adapted: &Adapted) -> Result<Reference> {
    if !is_copy(recipe) {
        return Ok(Reference::adapters_off(&adapted.model)?);
    }
    source.events().note(|| "the base itself trains, so a copy of it is kept as the reference; with `precompute_ref_log_probs = true` it is let go before the first step",
    );
    Ok(Reference::copy(Box::new(source.decoder(machine)?)))
}

/// Whether the reference is a second model in memory, because the base itself trains.
pub fn is_copy(recipe: &Recipe) -> bool {
    let keeps_base = |surgery: &Surgery| surgery.is_adapter() || surgery.packs().is_some();
    !recipe.surgery.iter().all(keeps_base)
}

/// What the reference says of every reply: from the cache, or computed and kept there.
pub fn known(
    recipe: &Recipe,
    sets: &Sets,
    model: &dyn LanguageModel,
    reference: &Reference,
    machine: Machine,
    events: &Events,
) -> Result<Known> {
    let of = |set: &TokenSet| {
        of_set(set, recipe, model, reference, machine, events).context("`objective.precompute_ref_log_probs`")
    };
    Ok(Known {
        train: sets.train.iter().map(of).collect::<Result<_>>()?,
        eval: sets.eval.iter().map(|(_, set)| of(set)).collect::<Result<_>>()?,
    })
}

fn of_set(
    set: &TokenSet,
    recipe: &Recipe,
    model: &dyn LanguageModel,
    reference: &Reference,
    machine: Machine,
    events: &Events,
) -> Result<Vec<f32>> {
    let steps = Steps::once(set, recipe, machine.device)?;
    let mut fingerprint = reference.fingerprint(model);
    for step in 0..steps.len() {
        for row in steps.tensors::<ReplyRow>(step)? {
            fingerprint.add_row(&row.batch);
        }
    }
    let count = 2 * set.len();
    let path = checkpoint::cache_dir().map(|cache| cache.join("references").join(fingerprint.text() + ".safetensors"));
    if let Some(path) = &path {
        // A file that cannot be read is one that is written again.
        if let Ok(Some(known)) = open_log_probs(path, count) {
            events.note(|| {
                format!(
                    "{count} log-probabilities under the reference were known: `{}`",
                    path.display()
                )
            });
            return Ok(known);
        }
    }
    let mut known = vec![0.0; count];
    let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, model.num_blocks());
    let work = events.begin("reference", steps.len());
    for step in 0..steps.len() {
        for packed in steps.batches().step(step)?.rows {
            let row = ReplyRow::of(&packed, steps.row_context());
            let policy = ModelPass::evaluate(model, &plan);
            let log_probs = Vec::<f32>::try_from(reference.log_probs(&policy, &row)?.to_device(tch::Device::Cpu))?;
            for (id, log_prob) in packed.documents.iter().zip(log_probs) {
                known[2 * id.sample + id.part] = log_prob;
            }
        }
        work.advance(1);
    }
    drop(work);
    // The cache saves time and nothing else: where it cannot be written, all goes on without it.
    if let Some(path) = &path
        && let Err(error) = keep(path, &known)
    {
        events.note(|| format!("the log-probabilities under the reference are not kept for the next run: {error:#}"));
    }
    Ok(known)
}

fn keep(path: &Path, known: &[f32]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("`{}`", folder.display()))?;
    }
    Ok(save_log_probs(path, known)?)
}
