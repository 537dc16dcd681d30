//! `kind = "dora"`: low-rank updates of directions, and magnitudes, over frozen weights.

use anyhow::Result;
use decoder::HeadKind;
use dora::{DoraConfig, Wrapping};
use lora::Originals;
use tensor_core::ModulePath;

use super::{Kept, Patient};

pub(super) fn operate(patient: Patient, config: &DoraConfig, originals: Option<&Originals>) -> Result<Patient> {
    let Patient { model, mut what, .. } = patient;
    let tables = [ModulePath::from("model.embed_tokens")];
    // A new head trains whole and is saved with the adapter.
    let has_new_head = *model.head_kind() != HeadKind::LanguageModel;
    let mut paths = model.projection_paths();
    if has_new_head {
        paths.retain(|(_, is_output)| !is_output);
    }
    let mut wrapping = Wrapping::choose(config, &paths, &tables)?;
    if let Some(originals) = originals {
        wrapping = wrapping.with_originals(Box::new(originals));
    }
    let decomposed: Vec<ModulePath> = wrapping.decomposed().cloned().collect();
    let magnitude_only: Vec<ModulePath> = wrapping.magnitude_only().cloned().collect();
    let whole = wrapping.whole().count();
    let mut still = Vec::new();
    let model = model
        .map_projections(&mut |at, base| {
            if magnitude_only.contains(at) {
                let shape = base.weight().size();
                still.push((at.clone(), [shape[0], shape[1]]));
            }
            wrapping.projection(at, base)
        })?
        .map_embedding(&mut |at, base| wrapping.table(at, base))?;
    let mut config = config.clone();
    if has_new_head {
        // The names that PEFT adds for sequence classification.
        let names = ["classifier".to_owned(), "score".to_owned()];
        config.lora.modules_to_save.extend(names);
    }
    let (r, of) = (config.lora.r, paths.len());
    what.push(format!("DoRA of rank {r} on {} of {of} projections", decomposed.len()));
    if !magnitude_only.is_empty() {
        what.push(format!("magnitudes alone on {}", magnitude_only.len()));
    }
    if whole > 0 {
        what.push(format!("{whole} modules whole"));
    }
    Ok(Patient {
        model,
        kept: Some(Kept::Decomposed {
            config,
            targets: decomposed.into_iter().chain(magnitude_only).collect(),
            still,
        }),
        what,
    })
}
