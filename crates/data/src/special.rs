//! A model's special tokens: which they are, and which of them end a text.

use std::path::Path;

use serde_json::Value;

use crate::{Error, Place, error};

/// The names that chat templates know special tokens by.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Special tokens by their strings, as a tokenizer's configuration names them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    named: Vec<(String, String)>,
    /// Further ids that end generation, from `generation_config.json`.
    pub more_eos_ids: Vec<u32>,
    /// Whether a text starts with the BOS token; `None` asks the tokenizer's own post-processor.
    pub add_bos: Option<bool>,
}

impl SpecialTokens {
    /// From pairs such as `("eos_token", "</s>")`.
    ///
    /// ```
    /// let special = data::SpecialTokens::new([("eos_token", "</s>")]);
    /// assert_eq!(special.get("eos_token"), Some("</s>"));
    /// ```
    pub fn new<'a>(named: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let named = named
            .into_iter()
            .map(|(name, token)| (name.to_owned(), token.to_owned()))
            .collect();
        Self {
            named,
            more_eos_ids: Vec::new(),
            add_bos: None,
        }
    }

    /// From a model directory: `tokenizer_config.json`, the older `special_tokens_map.json`, `generation_config.json`.
    pub fn in_dir(dir: &Path, tokenizer_config: &Value) -> Result<Self, Error> {
        let map = read_optional(&dir.join("special_tokens_map.json"))?;
        let mut special = Self::default();
        for name in NAMES {
            let token = [tokenizer_config, &map]
                .into_iter()
                .find_map(|config| content(config.get(name)?));
            if let Some(token) = token {
                special.named.push((name.to_owned(), token.to_owned()));
            }
        }
        let path = dir.join("generation_config.json");
        special.more_eos_ids = match read_optional(&path)?.get("eos_token_id") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(ids)) => ids.iter().map(|id| eos_id(&path, id)).collect::<Result<_, _>>()?,
            Some(id) => vec![eos_id(&path, id)?],
        };
        Ok(special)
    }

    /// A token by its name, e.g. `bos_token`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, token)| token.as_str())
    }

    /// Names and tokens.
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, token)| (name.as_str(), token.as_str()))
    }
}

/// A JSON file's value; null if there is no such file.
pub(crate) fn read_optional(path: &Path) -> Result<Value, Error> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let bytes = std::fs::read(path).map_err(error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Malformed {
        at: Place::line(path, source.line()),
        wanted: "JSON",
        found: source.to_string(),
    })
}

/// A token is a string or an object with its string as `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn eos_id(path: &Path, id: &Value) -> Result<u32, Error> {
    id.as_u64()
        .and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| Error::Malformed {
            at: Place::file(path),
            wanted: "`eos_token_id` as an id or a list of ids",
            found: id.to_string(),
        })
}
