//! What a checkpoint holds for others: a PEFT adapter, or a model that Transformers loads, with its tokenizer.

use std::path::Path;

use anyhow::{Context as _, Result};
use decoder::HeadKind;

use super::operate::{Kept, Operated};
use super::sets::Sets;
use crate::model::{LABELS, Source};

/// Writes the adapter or the model into `folder`.
pub fn save(folder: &Path, operated: &Operated, source: &Source, sets: &Sets) -> Result<()> {
    match &operated.kept {
        Kept::Adapter { config, targets } => {
            let task = match operated.model.head_kind() {
                HeadKind::LanguageModel => "CAUSAL_LM",
                _ => "SEQ_CLS",
            };
            let config = lora::to_peft_config(config, Some(source.name()), task, targets);
            crate::model::save_adapter(folder, config, &lora::adapter_tensors(&operated.model))?;
            if let Some(labels) = &sets.labels {
                let path = folder.join(LABELS);
                std::fs::write(&path, serde_json::to_string_pretty(labels)?)
                    .with_context(|| format!("`{}`", path.display()))?;
            }
            source.save_tokenizer(folder)
        }
        Kept::Whole => source.save_model(folder, &operated.model),
    }
}
