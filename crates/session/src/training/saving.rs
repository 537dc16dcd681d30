//! What a checkpoint holds for others: a PEFT adapter, or a model that Transformers loads, with its tokenizer.

use std::path::Path;

use anyhow::{Context as _, Result};
use methods::peft::LABELS;
use methods::{Adapted, Saved};
use models::Source;
use models::provenance;

use super::sets::Sets;

/// Writes the adapter or the model into `folder`.
pub fn save(folder: &Path, adapted: &Adapted, source: &Source, sets: &Sets) -> Result<()> {
    match &adapted.saved {
        Saved::Whole => return source.save_model(folder, &adapted.model),
        Saved::Beside(form) => form.save(folder, &adapted.model, source)?,
    }
    save_labels(folder, sets)?;
    if let Some(quantisation) = &adapted.quantisation {
        quantisation.save(folder)?;
    }
    if let Some(provenance) = source.provenance("train") {
        provenance::write(folder, &provenance)?;
    }
    source.save_tokenizer(folder)
}

/// Beside an adapter of a classifier: the names of its classes.
fn save_labels(folder: &Path, sets: &Sets) -> Result<()> {
    let Some(labels) = &sets.labels else { return Ok(()) };
    let path = folder.join(LABELS);
    std::fs::write(&path, serde_json::to_string_pretty(labels)?).with_context(|| format!("`{}`", path.display()))
}
