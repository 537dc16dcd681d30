//! The tokens that end a text: which files of a model name them, and how what is made of it names all of them.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ModelDir;
use crate::config::{self, ModelConfig, ids_as_json};
use crate::{Error, Result};

/// A file that names end tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEnds {
    /// Its name, such as `generation_config.json`.
    pub place: &'static str,
    /// The ids.
    pub ids: Vec<i64>,
}

impl ModelDir {
    /// The files that name end tokens, and which; a file that could and does not names none.
    pub fn end_tokens(&self) -> &[NamedEnds] {
        &self.end_tokens
    }

    /// The same model, which also stops at these tokens: what its tokenizer or its chat template ends a text with.
    ///
    /// Its configurations name all of them, so that whatever is made of it stops at them elsewhere too.
    #[must_use]
    pub fn with_end_tokens(mut self, ids: &[i64]) -> Self {
        let (mut config, generation) = self.as_read.clone();
        self.generation_config = generation;
        let is_new = ids.iter().any(|id| !config.eos_token_ids.contains(id));
        config = config.with_end_tokens(ids.iter().copied());
        let all = config.eos_token_ids.clone();
        if is_new {
            config = config.with_written_end_tokens(&all);
        }
        let last = self.end_tokens.iter().rev().find(|named| !named.ids.is_empty());
        if all.iter().any(|id| last.is_none_or(|named| !named.ids.contains(id))) {
            self.generation_config = Some(generation_with_ends(self.generation_config.as_ref(), &config, &all));
        }
        self.config = config;
        self
    }
}

/// A `generation_config.json` and the end tokens in it.
pub(super) fn read_generation(path: &Path) -> Result<(Map<String, Value>, Vec<i64>)> {
    let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let object: Map<String, Value> = python_json::from_slice(&text).map_err(Error::json(path))?;
    let ids = config::token_ids(path, &object, "eos_token_id").map_err(|error| error.in_text(&text))?;
    Ok((object, ids))
}

/// The `generation_config.json` that names `ends`; where there was none, what Transformers makes of `config`.
fn generation_with_ends(
    generation: Option<&Map<String, Value>>,
    config: &ModelConfig,
    ends: &[i64],
) -> Map<String, Value> {
    let ends = ids_as_json(ends);
    if let Some(generation) = generation {
        let mut object = generation.clone();
        object.insert("eos_token_id".into(), ends);
        return object;
    }
    let mut object = Map::new();
    object.insert("_from_model_config".into(), json!(true));
    if let Some(bos) = config.bos_token_id {
        object.insert("bos_token_id".into(), json!(bos));
    }
    object.insert("eos_token_id".into(), ends);
    if let Some(pad) = config.pad_token_id {
        object.insert("pad_token_id".into(), json!(pad));
    }
    object
}
