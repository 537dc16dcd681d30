//! Control tokens that are spelt in a row's own text.
//!
//! A tokenizer reads `<|im_end|>` as the end of a turn wherever it stands, in a user's question too. The spans that are
//! learnt do not move, but the model reads borders that the row does not have, so such rows are counted.

use regex::Regex;
use serde_json::Value;

use crate::{Exchange, Message, Prompt, Row, Tokenizer};

/// Finds a tokenizer's control tokens in texts.
#[derive(Debug)]
pub struct ControlTokens {
    pattern: Option<Regex>,
}

impl ControlTokens {
    /// The tokens that are marked special in the vocabulary, with those that begin and end a text.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let added = tokenizer.inner().get_added_tokens_decoder();
        let marked = added
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(_, token)| token.content);
        let ends = tokenizer.eos_ids().iter().copied().chain(tokenizer.bos());
        let mut tokens: Vec<String> = marked.chain(ends.filter_map(|id| tokenizer.token(id))).collect();
        tokens.retain(|token| !token.trim().is_empty());
        // Of two tokens that begin alike the longer one is read.
        tokens.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        tokens.dedup();
        let any = tokens
            .iter()
            .map(|token| regex::escape(token))
            .collect::<Vec<_>>()
            .join("|");
        Self {
            pattern: (!any.is_empty()).then(|| Regex::new(&any).ok()).flatten(),
        }
    }

    /// The control tokens that a row's texts spell, each once.
    pub fn in_row(&self, row: &Row) -> Vec<String> {
        let mut found = Vec::new();
        let Some(pattern) = &self.pattern else { return found };
        let mut look = |text: &str| {
            for spelt in pattern.find_iter(text).map(|spelt| spelt.as_str()) {
                if !found.iter().any(|known| known == spelt) {
                    found.push(spelt.to_owned());
                }
            }
        };
        match row {
            Row::Text(text) | Row::Labelled { text, .. } => look(text),
            Row::Chat(chat) => in_messages(&chat.messages, &mut look),
            Row::Prompted(exchange) | Row::Unpaired { exchange, .. } => in_exchange(exchange, &mut look),
            Row::Preference { chosen, rejected } => {
                in_exchange(chosen, &mut look);
                in_exchange(rejected, &mut look);
            }
            Row::PromptOnly { prompt, .. } => match prompt {
                Prompt::Text(text) => look(text),
                Prompt::Turns(chat) => in_messages(&chat.messages, &mut look),
            },
        }
        found
    }
}

fn in_exchange(exchange: &Exchange, look: &mut impl FnMut(&str)) {
    match exchange {
        Exchange::Text { prompt, reply } => [prompt, reply].into_iter().for_each(|text| look(text)),
        Exchange::Turns { prompt, reply } => {
            in_messages(&prompt.messages, look);
            in_messages(reply, look);
        }
    }
}

fn in_messages(messages: &[Message], look: &mut impl FnMut(&str)) {
    for message in messages {
        message.fields().values().for_each(|value| in_value(value, look));
    }
}

fn in_value(value: &Value, look: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(items) => items.iter().for_each(|item| in_value(item, look)),
        Value::Object(fields) => fields.values().for_each(|value| in_value(value, look)),
        _ => {}
    }
}
