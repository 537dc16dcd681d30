//! A tokenizer from its files: `tokenizer.json`, and the tokens and templates that stand beside it.

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer as Inner;

use super::{Tokenizer, refused};
use crate::files::{self, TokenizerFiles};
use crate::special::{self, Declared, Outside};
use crate::template::TemplateSources;
use crate::{Error, Surroundings};

impl Tokenizer {
    /// From the files of a model, given what else is known of it.
    pub fn read(files: &dyn TokenizerFiles, surroundings: Surroundings) -> Result<Self, Error> {
        let name = "tokenizer.json";
        let path = files.place(name);
        let absent = || rows::io(&path)(std::io::ErrorKind::NotFound.into());
        let bytes = files.read(name)?.ok_or_else(absent)?;
        let mut inner = Inner::from_bytes(python_json::without_mark(&bytes)).map_err(|source| Error::Tokenizer {
            at: path.display().to_string(),
            message: source.to_string(),
        })?;
        let config = files::object(files, "tokenizer_config.json")?;
        let held = inner.get_added_vocabulary().get_added_tokens_decoder();
        let held: Vec<(u32, String)> = held.iter().map(|(id, token)| (*id, token.content.clone())).collect();
        let Declared {
            special,
            outside,
            mut notes,
        } = Declared::read(files, &config, &held)?;
        let mut digest = Sha256::new();
        digest.update(&bytes);
        for token in outside {
            digest.update(format!("{:?}", token.token));
            notes.extend(add(&mut inner, token, surroundings.rows)?);
        }
        let templates = TemplateSources::find_with(files, &config)?;
        let parts = (digest.finalize().into(), surroundings, notes);
        let mut tokenizer = Self::build(inner, special, templates.compile()?, parts)?;
        let doubtful = special::doubtful_ends(&config, &tokenizer);
        tokenizer.notes.extend(doubtful);
        tokenizer.template_notes = templates.notes().to_vec();
        Ok(tokenizer)
    }
}

/// Adds a token as Transformers does: under its own number if it has one, else under the next. Says where that is not
/// the number that its file gives, and where the model has no room for it.
fn add(inner: &mut Inner, outside: Outside, rows: Option<usize>) -> Result<Option<String>, Error> {
    let Outside { token, place, id } = outside;
    let content = token.content.clone();
    if content.is_empty() {
        return Ok(None);
    }
    if inner.token_to_id(&content).is_none() {
        // Deviation: Transformers gives them a number that the model has never seen.
        if id.is_none() && matches!(place.as_str(), "bos_token" | "eos_token") {
            return Ok(None);
        }
        let next = next_id(inner);
        if let Some(rows) = rows.filter(|rows| next as usize >= *rows) {
            return Ok(Some(format!(
                "`{content}` ({place}) would be token {next}, and the model has tokens 0 to {}: it is read as plain text",
                rows.saturating_sub(1)
            )));
        }
    }
    inner.add_tokens([token]).map_err(refused)?;
    let found = inner.token_to_id(&content);
    Ok(match (id, found) {
        (Some(wanted), Some(found)) if wanted != found => Some(format!(
            "`{content}` has the number {wanted} in {place}; it is token {found}, as in Transformers"
        )),
        _ => None,
    })
}

fn next_id(inner: &Inner) -> u32 {
    let size = inner.get_vocab_size(false) as u32;
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    match added.keys().max() {
        Some(max) if *max >= size => max + 1,
        _ => size,
    }
}

/// What the post-processor puts before a text and behind it.
pub(super) fn around(inner: &Inner) -> Result<(Vec<u32>, Vec<u32>), Error> {
    if inner.encode("", true).map_err(refused)?.get_ids().is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let encoding = inner.encode("a", true).map_err(refused)?;
    let (ids, mask) = (encoding.get_ids(), encoding.get_special_tokens_mask());
    let body = |mask: &u32| *mask == 0;
    let Some(first) = mask.iter().position(body) else {
        // The letter is nothing to this tokenizer; what opens a text is commoner than what closes it.
        return Ok((ids.to_vec(), Vec::new()));
    };
    let last = mask.iter().rposition(body).unwrap_or(first);
    Ok((ids[..first].to_vec(), ids[last + 1..].to_vec()))
}
