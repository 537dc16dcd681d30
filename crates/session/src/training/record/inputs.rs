//! What a recipe names outside itself: files, models, adapters, each by what it holds.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use models::provenance::{digests, file_digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A file or a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Input {
    /// As the recipe names it.
    pub(super) path: String,
    /// Of a file its bytes; of a model or adapter its tensors.
    pub(super) sha256: String,
}

/// Keys whose values are looked at elsewhere, or are written and not read.
const OTHERS: [&str; 3] = ["model.name_or_path", "model.chat_template", "train.output_dir"];

/// Every input of a recipe, by its key.
pub(super) fn of(recipe: &Value) -> Result<BTreeMap<String, Input>> {
    let mut inputs = BTreeMap::new();
    for (key, value) in flat(recipe) {
        let Some(name) = value.as_str().filter(|_| !OTHERS.contains(&key.as_str())) else {
            continue;
        };
        if let Some(sha256) = digest(&key, name)? {
            let path = name.to_owned();
            inputs.insert(key, Input { path, sha256 });
        }
    }
    Ok(inputs)
}

fn digest(key: &str, name: &str) -> Result<Option<String>> {
    let path = Path::new(name);
    // Every path of a resolved recipe is absolute; other words stand for themselves, but for names of models.
    if path.is_absolute() && path.exists() {
        let is_weights = path.is_dir()
            || path
                .extension()
                .is_some_and(|end| end == "gguf" || end == "safetensors");
        return match is_weights {
            // A folder without weights is an input whose name must do.
            true => Ok(digests().of(path).ok()),
            false => file_digest(path).map(Some),
        };
    }
    let names_model = matches!(key.rsplit('.').next(), Some("teacher" | "model"));
    match names_model.then(|| checkpoint::resolve(name)) {
        Some(Ok(path)) => Ok(Some(digests().of(&path)?)),
        _ => Ok(None),
    }
}

/// Every value that is no table and no list, by its key with dots between.
pub(super) fn flat(value: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), value)];
    while let Some((key, value)) = open.pop() {
        let inner = |name: &str| {
            if key.is_empty() {
                name.to_owned()
            } else {
                format!("{key}.{name}")
            }
        };
        match value {
            Value::Object(members) => open.extend(members.iter().map(|(name, value)| (inner(name), value))),
            Value::Array(items) => {
                open.extend(
                    items
                        .iter()
                        .enumerate()
                        .map(|(idx, value)| (inner(&idx.to_string()), value)),
                );
            }
            Value::Null => {}
            other => {
                found.insert(key, other.clone());
            }
        }
    }
    found
}
