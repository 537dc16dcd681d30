//! What an adapter is: rank, scale, modules, base.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use checkpoint::TokenizerFiles;
use serde_json::{Map, Value, json};

use crate::methods;
use crate::model::{Adapter, PromptFormat};
use crate::quantised::Quantisation;

/// The facts, in the order they are shown.
pub(super) fn facts(path: &Path) -> Result<Map<String, Value>> {
    let mut facts = of_kind(path)?;
    if let Some(format) = PromptFormat::in_files(&TokenizerFiles::in_folder(path)?)? {
        facts.insert("prompt_format".to_owned(), json!(format));
    }
    Ok(facts)
}

fn of_kind(path: &Path) -> Result<Map<String, Value>> {
    if let Some(format) = methods::format_of(path) {
        return (format.facts)(path);
    }
    let adapter = Adapter::open(path)?;
    let (file, config) = (adapter.file().config(), adapter.config());
    let parameters: usize = adapter.tensors().iter().map(|(_, tensor)| tensor.numel()).sum();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for module in adapter.file().modules() {
        *by_name.entry(module.name()).or_default() += 1;
    }
    let modules: Vec<String> = by_name
        .iter()
        .map(|(name, count)| format!("{name} × {count}"))
        .collect();
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    put("kind", json!("adapter"));
    put("path", json!(path.display().to_string()));
    put("type", json!(file.peft_type));
    put("method", json!(if adapter.use_dora() { "DoRA" } else { "LoRA" }));
    put("task", json!(file.task_type));
    put("base", json!(file.base_model_name_or_path));
    put("rank", json!(config.r));
    put("alpha", json!(config.lora_alpha));
    put(
        "scale",
        json!(if config.use_rslora {
            "alpha / √rank"
        } else {
            "alpha / rank"
        }),
    );
    put("dropout", json!(config.lora_dropout));
    put("parameters", json!(parameters));
    put("modules", json!(modules));
    put("trained_whole", json!(config.modules_to_save));
    put("labels", json!(adapter.labels()?));
    let init = config.init_lora_weights;
    if init.takes_from_base() {
        put(
            "base_under_it",
            json!(format!(
                "the base less its first update (`init_lora_weights` = \"{}\")",
                init.name()
            )),
        );
    }
    if let Some(quantisation) = Quantisation::of_adapter(path)? {
        put("trained_over", json!(quantisation.to_string()));
    }
    if !adapter.remarks().is_empty() {
        put("remarks", json!(adapter.remarks()));
    }
    Ok(facts)
}
