//! A model's special tokens: which they are by name, and which of them `tokenizer.json` does not hold.
//!
//! Source: `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__` of Transformers 5.23. Deviation:
//! a disagreement between files, which Transformers settles in silence, is a note.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::files::{self, TokenizerFiles, malformed};
use crate::{Error, Tokenizer};

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

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Special tokens by their strings, as a tokenizer's configuration names them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    named: Vec<(String, String)>,
}

impl SpecialTokens {
    /// From pairs such as `("eos_token", "</s>")`.
    ///
    /// ```
    /// let special = data::SpecialTokens::new([("eos_token", "</s>")]);
    /// assert_eq!(special.get("eos_token"), Some("</s>"));
    /// ```
    pub fn new<'a>(named: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let named = named.into_iter();
        Self {
            named: named.map(|(name, token)| (name.to_owned(), token.to_owned())).collect(),
        }
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

/// A token that stands outside of `tokenizer.json`.
#[derive(Debug, Clone)]
pub(crate) struct Outside {
    pub(crate) token: AddedToken,
    /// The file or key that names it.
    pub(crate) place: String,
    /// The id that stands there, if one does.
    pub(crate) id: Option<u32>,
}

/// What the files beside `tokenizer.json` say of tokens.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) special: SpecialTokens,
    /// In the order in which Transformers adds them.
    pub(crate) outside: Vec<Outside>,
    pub(crate) notes: Vec<String>,
}

impl Declared {
    /// Reads `tokenizer_config.json` and, as far as that leaves it to them, the files of older versions.
    ///
    /// `held` are the added tokens of `tokenizer.json` by id.
    pub(crate) fn read(
        files: &dyn TokenizerFiles,
        config: &Map<String, Value>,
        held: &[(u32, String)],
    ) -> Result<Self, Error> {
        let mut declared = Self::default();
        let is_new = config.contains_key("added_tokens_decoder");
        // Files of older versions are read where the newer key is not there.
        let map = if is_new { Map::new() } else { files::object(files, MAP)? };
        let mut named = Vec::new();
        for name in NAMES {
            let (here, there) = (config.get(name), map.get(name));
            let token = there.or(here).and_then(content);
            if let (Some(here), Some(there)) = (here.and_then(content), there.and_then(content))
                && here != there
            {
                declared.notes.push(format!(
                    "`{}`: `{name}` is `{there}` in {MAP} and `{here}` in {CONFIG}: the former counts, as in Transformers",
                    files.place(CONFIG).display()
                ));
            }
            named.extend(token.map(|token| (name.to_owned(), token.to_owned())));
        }
        named.extend(of_the_model(config));
        declared.special = SpecialTokens { named };
        let extra = extra(config, &map);
        if is_new {
            declared.newer(files, config)?;
        } else {
            declared.older(files, held, &extra)?;
        }
        let named: Vec<(String, String)> = declared.special.named.clone();
        let extra = extra
            .into_iter()
            .map(|token| ("extra_special_tokens".to_owned(), token));
        for (name, content) in named.into_iter().chain(extra) {
            let is_known = held.iter().any(|(_, known)| *known == content)
                || declared.outside.iter().any(|other| other.token.content == content);
            if !is_known {
                declared.outside.push(Outside {
                    token: AddedToken::from(content, true),
                    place: name,
                    id: None,
                });
            }
        }
        Ok(declared)
    }

    /// `added_tokens_decoder`: ids to tokens.
    fn newer(&mut self, files: &dyn TokenizerFiles, config: &Map<String, Value>) -> Result<(), Error> {
        let key = "added_tokens_decoder";
        let refused = |found: &Value| {
            malformed(
                files,
                CONFIG,
                key,
                "`added_tokens_decoder` as ids with their tokens",
                found,
            )
        };
        let Some(value) = config.get(key).filter(|value| !value.is_null()) else {
            return Ok(());
        };
        let tokens = value.as_object().ok_or_else(|| refused(value))?;
        let mut listed = Vec::new();
        for (id, token) in tokens {
            let number = id.parse::<u32>().ok();
            let (Some(id), Some(content)) = (number, token.get("content").and_then(Value::as_str)) else {
                return Err(refused(token));
            };
            let flag = |name: &str| token.get(name).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            let token = AddedToken::from(content, special)
                .single_word(flag("single_word").unwrap_or(false))
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!special));
            listed.push((id, token));
        }
        self.list(listed, &format!("`{key}` of {CONFIG}"));
        Ok(())
    }

    /// `added_tokens.json`: tokens to ids. What `tokenizer.json` holds under the same id counts.
    fn older(&mut self, files: &dyn TokenizerFiles, held: &[(u32, String)], extra: &[String]) -> Result<(), Error> {
        let mut listed = Vec::new();
        for (content, id) in files::object(files, ADDED)? {
            let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                return Err(malformed(files, ADDED, &content, "tokens with their ids", &id));
            };
            if held.iter().any(|(known, _)| *known == id) {
                continue;
            }
            let special = self.special.named().any(|(_, token)| token == content) || extra.contains(&content);
            listed.push((id, AddedToken::from(content, special)));
        }
        self.list(listed, ADDED);
        Ok(())
    }

    fn list(&mut self, mut listed: Vec<(u32, AddedToken)>, place: &str) {
        listed.sort_by_key(|(id, _)| *id);
        self.outside.extend(listed.into_iter().map(|(id, token)| Outside {
            token,
            place: place.to_owned(),
            id: Some(id),
        }));
    }
}

/// A note where `add_bos_token` or `add_eos_token` says another thing than the tokenizer does.
pub(crate) fn doubtful_ends(config: &Map<String, Value>, tokenizer: &Tokenizer) -> Vec<String> {
    let check = |key: &str, adds: bool, token: Option<u32>| {
        let wanted = config.get(key).and_then(Value::as_bool)?;
        let does = |adds: bool| if adds { "puts" } else { "does not put" };
        (wanted != adds && token.is_some()).then(|| {
            format!(
                "`{key}` is {wanted} in {CONFIG}, and the post-processor of tokenizer.json {} that token around a text: \
                 the latter counts, as in Transformers 5",
                does(adds)
            )
        })
    };
    let (bos, eos) = (tokenizer.bos(), tokenizer.own_eos());
    let around = |tokens: &[u32], token: Option<u32>| token.is_some_and(|token| tokens.contains(&token));
    [
        check("add_bos_token", around(tokenizer.opening(), bos), bos),
        check("add_eos_token", around(tokenizer.closing(), eos), eos),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A token is a string or an object with its string as `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Tokens under names of the model's own, such as `image_token`.
fn of_the_model(config: &Map<String, Value>) -> Vec<(String, String)> {
    let own = config
        .iter()
        .filter(|(name, _)| name.ends_with("_token") && !NAMES.contains(&name.as_str()));
    let extra = config.get("extra_special_tokens").and_then(Value::as_object);
    own.chain(extra.into_iter().flatten())
        .filter_map(|(name, value)| Some((name.clone(), content(value)?.to_owned())))
        .collect()
}

/// Special tokens without a name: `extra_special_tokens`, or the older `additional_special_tokens`.
fn extra(config: &Map<String, Value>, map: &Map<String, Value>) -> Vec<String> {
    let list = |from: &Map<String, Value>, key: &str| -> Vec<String> {
        let tokens = from.get(key).and_then(Value::as_array);
        tokens
            .into_iter()
            .flatten()
            .filter_map(content)
            .map(str::to_owned)
            .collect()
    };
    let mut found = list(config, "extra_special_tokens");
    if found.is_empty() {
        found = match map.contains_key("additional_special_tokens") {
            true => list(map, "additional_special_tokens"),
            false => list(config, "additional_special_tokens"),
        };
    }
    for token in list(map, "extra_special_tokens") {
        if !found.contains(&token) {
            found.push(token);
        }
    }
    found
}
