//! `kind = "lora"`: low-rank updates beside frozen weights.

use anyhow::Result;
use decoder::HeadKind;
use lora::{LoraConfig, Originals, Wrapping};
use tensor_core::ModulePath;

use super::{Kept, Patient};

pub(super) fn operate(patient: Patient, config: &LoraConfig, originals: Option<&Originals>) -> Result<Patient> {
    let Patient { model, mut what, .. } = patient;
    let tables = [ModulePath::from("model.embed_tokens")];
    // A new head trains whole and is saved with the adapter; an update of it would be lost in its noise.
    let has_new_head = *model.head_kind() != HeadKind::LanguageModel;
    let mut paths = model.projection_paths();
    if has_new_head {
        paths.retain(|(_, is_output)| !is_output);
    }
    let mut wrapping = Wrapping::choose(config.clone(), &paths, &tables)?;
    if let Some(originals) = originals {
        wrapping = wrapping.with_originals(Box::new(originals));
    }
    let (targets, whole): (Vec<_>, Vec<_>) = (
        wrapping.chosen().cloned().collect(),
        wrapping.whole().cloned().collect(),
    );
    let model = model
        .map_projections(&mut |at, base| wrapping.projection(at, base))?
        .map_embedding(&mut |at, base| wrapping.table(at, base))?;
    let mut config = config.clone();
    if has_new_head {
        // The names that PEFT adds for sequence classification.
        config
            .modules_to_save
            .extend(["classifier".to_owned(), "score".to_owned()]);
    }
    let of = paths.len();
    what.push(format!(
        "LoRA of rank {} on {} of {of} projections",
        config.r,
        targets.len()
    ));
    if !whole.is_empty() {
        what.push(format!("{} modules whole", whole.len()));
    }
    Ok(Patient {
        model,
        kept: Some(Kept::Adapter {
            config,
            targets,
            keeps_zeros: false,
        }),
        what,
    })
}
