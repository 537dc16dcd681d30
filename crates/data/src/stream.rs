//! Text while it is being generated: token by token, in whole characters.
//!
//! A token may hold part of a character, and some decoders treat a text's first token differently, so each step
//! decodes a short window twice, with and without the newest tokens, and hands out the difference.

use crate::{Problem, Tokenizer};

const HALF: char = char::REPLACEMENT_CHARACTER;

/// Decodes tokens one at a time; the pieces together are exactly [`Tokenizer::decode`] of all tokens.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    tokens: Vec<u32>,
    /// Tokens before this one no longer matter.
    window: usize,
    /// Tokens before this one have been handed out.
    done: usize,
}

impl<'t> TextStream<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self {
            tokenizer,
            tokens: Vec::new(),
            window: 0,
            done: 0,
        }
    }

    /// Takes a token and returns the text that is certain by now, perhaps empty.
    pub fn push(&mut self, token: u32) -> Result<String, Problem> {
        self.tokens.push(token);
        let before = self.tokenizer.decode(&self.tokens[self.window..self.done])?;
        let after = self.tokenizer.decode(&self.tokens[self.window..])?;
        match after.strip_prefix(&before) {
            Some(new) if !new.is_empty() && !new.ends_with(HALF) => {
                let new = new.to_owned();
                self.window = self.done;
                self.done = self.tokens.len();
                Ok(new)
            }
            _ => Ok(String::new()),
        }
    }

    /// What was held back: half a character that will not be completed any more.
    pub fn finish(self) -> Result<String, Problem> {
        let before = self.tokenizer.decode(&self.tokens[self.window..self.done])?;
        let after = self.tokenizer.decode(&self.tokens[self.window..])?;
        Ok(after.strip_prefix(&before).unwrap_or_default().to_owned())
    }
}
