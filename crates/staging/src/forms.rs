//! The names by which models and adapters go on disk, whatever wrote them.
//!
//! What bears such a name at the top of a folder belongs to the model that is read from there, so it leaves with it. A
//! generation also lists its own files, and so a form that is missing here is replaced too.

use std::path::Path;

use crate::disk;

/// What a reader enters by, and weights.
const MODELS: [&str; 14] = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.gguf",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapter.safetensors",
    "pytorch_adapter.bin",
    "memory_config.json",
    "memory.safetensors",
    "facts.jsonl",
];

/// What goes with them.
const COMPANIONS: [&str; 13] = [
    "generation_config.json",
    "labels.json",
    "quantization.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "provenance.json",
];

/// Folders whose files belong to the model.
const FOLDERS: [&str; 1] = ["additional_chat_templates"];

/// Whether the file at `path`, as it is called in its folder, is part of a model or an adapter.
pub fn is_model_file(path: &str) -> bool {
    match path.split_once('/') {
        Some((folder, _)) => FOLDERS.contains(&folder),
        None => COMPANIONS.contains(&path) || is_weights_or_entry(path),
    }
}

/// A file that makes `folder` a model's or an adapter's, if one lies in it: what must not be mixed with another one.
pub fn model_in(folder: &Path) -> Option<String> {
    let names = disk::names(folder).unwrap_or_default();
    let names = names.iter().filter_map(|name| name.to_str());
    names.filter(|name| is_weights_or_entry(name)).map(str::to_owned).next()
}

fn is_weights_or_entry(name: &str) -> bool {
    let is_shard = |stem: &str, end: &str| {
        let numbers = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(end));
        let count = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let pair = numbers.and_then(|numbers| numbers.split_once("-of-"));
        pair.is_some_and(|(one, all)| count(one) && count(all))
    };
    MODELS.contains(&name)
        || is_shard("model-", ".safetensors")
        || is_shard("pytorch_model-", ".bin")
        // The rows of a memory go by the module: `model.layers.0.mlp.down_proj.rows`.
        || name.strip_suffix(".rows").is_some_and(|module| module.starts_with("model."))
}

/// Whether a reader takes the folder for a model or an adapter by this file: gone first, back last.
pub(crate) fn is_entry(path: &str) -> bool {
    matches!(path, "config.json" | "adapter_config.json" | "memory_config.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_models_are_known_and_other_files_left_alone() {
        for (path, wanted) in [
            ("model.safetensors", true),
            ("model-00001-of-00012.safetensors", true),
            ("model-of-mine.safetensors", false),
            ("model-1.safetensors", false),
            ("additional_chat_templates/tool_use.jinja", true),
            ("notes/config.json", false),
            ("model.layers.0.mlp.down_proj.rows", true),
            ("data.rows", false),
            ("rows", false),
            ("README.md", false),
            ("metrics.jsonl", false),
            ("recipe.toml", false),
        ] {
            assert_eq!(is_model_file(path), wanted, "{path}");
        }
    }
}
