//! What a checkpoint holds for others: a PEFT adapter, or a model that Transformers loads, with its tokenizer.

use std::path::Path;

use anyhow::{Context as _, Result};
use decoder::HeadKind;
use lora::LoraConfig;

use super::operate::{Kept, Operated};
use super::sets::Sets;
use crate::model::{LABELS, Source};
use crate::provenance;
use crate::zeros;

/// Writes the adapter or the model into `folder`.
pub fn save(folder: &Path, operated: &Operated, source: &Source, sets: &Sets) -> Result<()> {
    let task = match operated.model.head_kind() {
        HeadKind::LanguageModel => "CAUSAL_LM",
        _ => "SEQ_CLS",
    };
    match &operated.kept {
        Kept::Adapter {
            config,
            targets,
            keeps_zeros,
        } => {
            let (config, tensors) = as_saved(config, lora::adapter_tensors(&operated.model), source)?;
            let mut config = lora::to_peft_config(&config, Some(source.name()), task, targets);
            if *keeps_zeros {
                config.insert(zeros::KEY.to_owned(), true.into());
            }
            crate::model::save_adapter(folder, config, &tensors)?;
        }
        Kept::Decomposed { config, targets, still } => {
            let mut tensors = lora::adapter_tensors(&operated.model);
            for (at, shape) in still {
                let (rank, _) = config.lora.rank_and_scale(at)?;
                tensors.extend(dora::still_factors(at, rank, *shape));
            }
            // Magnitudes alone are among the targets whatever options chose them.
            let named = dora::DoraConfig {
                lora: dora::targeted(config, targets),
                ..config.clone()
            };
            let (lora, tensors) = as_saved(&named.lora, tensors, source)?;
            let config = dora::DoraConfig { lora, ..named };
            let config = dora::to_peft_config(&config, Some(source.name()), task, targets);
            crate::model::save_adapter(folder, config, &tensors)?;
        }
        Kept::Bottleneck(config) => crate::bottleneck::save(folder, config, &operated.model, source.name())?,
        Kept::Memory(bank) => crate::memories::save(folder, bank, source.name())?,
        Kept::Whole => return source.save_model(folder, &operated.model),
    }
    save_labels(folder, sets)?;
    if let Some(quantisation) = &operated.quantisation {
        quantisation.save(folder)?;
    }
    if let Some(provenance) = source.provenance("train") {
        provenance::write(folder, &provenance)?;
    }
    source.save_tokenizer(folder)
}

/// What is written of an adapter: options that agree with the tensors, under the names that the base's modules have.
fn as_saved(config: &LoraConfig, tensors: lora::Tensors, source: &Source) -> Result<(LoraConfig, lora::Tensors)> {
    let config = lora::as_written(config, &tensors)?;
    if source.dir().config().is_of_multimodal {
        Ok(lora::in_multimodal(config, tensors)?)
    } else {
        Ok((config, tensors))
    }
}

/// Beside an adapter of a classifier: the names of its classes.
fn save_labels(folder: &Path, sets: &Sets) -> Result<()> {
    let Some(labels) = &sets.labels else { return Ok(()) };
    let path = folder.join(LABELS);
    std::fs::write(&path, serde_json::to_string_pretty(labels)?).with_context(|| format!("`{}`", path.display()))
}
