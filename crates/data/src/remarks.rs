//! What whoever trains on a row should know, beside what becomes of its tokens.

use crate::{Chat, ControlTokens, Exchange, Prompt, Row, Tokenizer, shown};

/// Remarks on a row, each as it follows a number of rows: "3 rows …".
pub fn remarks(row: &Row, tokenizer: &Tokenizer, control: &ControlTokens) -> Vec<String> {
    let spelt = control.in_row(row);
    let mut found: Vec<String> = spelt
        .iter()
        .map(|token| format!("whose text spells `{token}`, which is read as the control token"))
        .collect();
    if let Some(chat) = chat(row)
        && let Some(template) = tokenizer.templates().choose(chat.tools.is_some())
    {
        found.extend(shown::left_out(&chat, template, tokenizer.special()));
    }
    found
}

fn chat(row: &Row) -> Option<Chat> {
    match row {
        Row::Text(_) | Row::Labelled { .. } => None,
        Row::Chat(chat) => Some(chat.clone()),
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } | Row::Preference { chosen: exchange, .. } => {
            Exchange::chat(exchange)
        }
        Row::PromptOnly { prompt, .. } => match prompt {
            Prompt::Text(_) => None,
            Prompt::Turns(chat) => Some(chat.clone()),
        },
    }
}
