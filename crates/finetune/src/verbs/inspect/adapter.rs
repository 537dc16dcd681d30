//! What an adapter is: what its method says of it, and how prompts were given to it.

use std::path::Path;

use anyhow::Result;
use checkpoint::TokenizerFiles;
use models::PromptFormat;
use serde_json::{Map, Value, json};

/// The facts, in the order they are shown.
pub(super) fn facts(path: &Path) -> Result<Map<String, Value>> {
    let mut facts = methods::facts(path)?;
    if let Some(format) = PromptFormat::in_files(&TokenizerFiles::in_folder(path)?)? {
        facts.insert("prompt_format".to_owned(), json!(format));
    }
    Ok(facts)
}
