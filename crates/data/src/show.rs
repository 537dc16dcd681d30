//! A document for the eye: its text, with what is learnt told apart.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{Problem, Tokenized, Tokenizer};

/// Neighbouring tokens that are all learnt, or all not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// Their text, special tokens included.
    pub text: String,
    /// Whether they are learnt.
    pub trained: bool,
    /// How many tokens.
    pub tokens: usize,
}

/// Splits a document where learning starts and stops; the texts together are the decoded document.
pub fn stretches(document: &Tokenized, tokenizer: &Tokenizer) -> Result<Vec<Stretch>, Problem> {
    let mut found = Vec::new();
    let mut shown = String::new();
    let mut end = 0;
    for group in document.trained.chunk_by(|a, b| a == b) {
        end += group.len();
        let text = tokenizer.decode_all(&document.tokens[..end])?;
        let new = text.get(shown.len()..).unwrap_or_default().to_owned();
        found.push(Stretch {
            text: new,
            trained: group[0],
            tokens: group.len(),
        });
        shown = text;
    }
    Ok(found)
}

/// Stretches for a terminal: learnt text in bold green, the rest dimmed.
pub fn to_ansi(stretches: &[Stretch]) -> String {
    let mut out = String::new();
    for stretch in stretches {
        let style = if stretch.trained { "1;32" } else { "2" };
        let _ = write!(out, "\x1b[{style}m{}\x1b[0m", stretch.text);
    }
    out
}
