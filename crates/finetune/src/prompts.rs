//! What a model is asked: a text or a row as the tokens that it continues, and as the text that it scores.

use anyhow::{Result, bail};
use data::{Chat, Ending, Exchange, Message, Prompt, Row, Tokenizer};

/// Whether a plain text becomes the user's turn of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// It does, where the model has a chat template.
    Chat,
    /// It is continued as it stands.
    Plain,
}

/// A prompt.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What the model is given, without the template around it.
    pub text: String,
    /// Its tokens, template and header of the answer included.
    pub tokens: Vec<u32>,
    /// The answer that the row gives.
    pub reference: Option<String>,
}

/// A plain text as a prompt.
pub fn of_text(text: &str, form: Form, tokenizer: &Tokenizer) -> Result<Asked> {
    let chats = form == Form::Chat && tokenizer.templates().choose(false).is_some();
    let tokens = if chats {
        turns(&Chat::new(vec![Message::new("user", text)]), tokenizer)?
    } else {
        tokenizer.encode_prompt(text)?
    };
    Ok(Asked {
        text: text.to_owned(),
        tokens,
        reference: None,
    })
}

/// A conversation so far, as the tokens that the assistant's next turn follows.
pub fn turns(chat: &Chat, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    Ok(tokenizer.encode_prompt(&render(chat, Ending::GenerationPrompt, tokenizer)?)?)
}

/// The prompt of a data row, and its answer where it has one.
pub fn of_row(row: &Row, form: Form, tokenizer: &Tokenizer) -> Result<Asked> {
    let input = row.input();
    let asked = |text: String, tokens, reference| {
        Ok(Asked {
            text,
            tokens,
            reference,
        })
    };
    match row {
        Row::Text(text)
        | Row::Labelled { text, .. }
        | Row::PromptOnly {
            prompt: Prompt::Text(text),
            ..
        } => of_text(text, form, tokenizer),
        Row::Chat(chat) => match chat.messages.split_last() {
            Some((last, before)) if last.role() == "assistant" => {
                let before = Chat {
                    messages: before.to_vec(),
                    ..chat.clone()
                };
                asked(
                    last_said(&before.messages),
                    turns(&before, tokenizer)?,
                    Some(last.text()),
                )
            }
            _ => asked(last_said(&chat.messages), turns(chat, tokenizer)?, None),
        },
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } | Row::Preference { chosen: exchange, .. } => {
            match exchange {
                Exchange::Text { prompt, reply } => asked(input, tokenizer.encode_prompt(prompt)?, Some(reply.clone())),
                Exchange::Turns { prompt, .. } => asked(
                    last_said(&prompt.messages),
                    turns(prompt, tokenizer)?,
                    Some(exchange.reply_text()),
                ),
            }
        }
        Row::PromptOnly {
            prompt: Prompt::Turns(chat),
            ..
        } => asked(last_said(&chat.messages), turns(chat, tokenizer)?, None),
    }
}

/// The answer that a row itself gives.
pub fn answer(row: &Row) -> Option<String> {
    match row {
        Row::Chat(chat) => chat
            .messages
            .last()
            .filter(|last| last.role() == "assistant")
            .map(Message::text),
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } | Row::Preference { chosen: exchange, .. } => {
            Some(exchange.reply_text())
        }
        Row::Text(_) | Row::Labelled { .. } | Row::PromptOnly { .. } => None,
    }
}

/// The whole text of a row, as it is scored.
pub fn whole_text(row: &Row, tokenizer: &Tokenizer) -> Result<String> {
    match row {
        Row::Text(text)
        | Row::Labelled { text, .. }
        | Row::PromptOnly {
            prompt: Prompt::Text(text),
            ..
        } => Ok(text.clone()),
        Row::Chat(chat) => render(chat, Ending::Closed, tokenizer),
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } => match (exchange, exchange.chat()) {
            (_, Some(chat)) => render(&chat, Ending::Closed, tokenizer),
            (Exchange::Text { prompt, reply }, None) => Ok(format!("{prompt}{reply}")),
            (Exchange::Turns { .. }, None) => bail!("a conversation without turns"),
        },
        Row::PromptOnly {
            prompt: Prompt::Turns(chat),
            ..
        } => render(chat, Ending::GenerationPrompt, tokenizer),
        Row::Preference { .. } => {
            bail!("wanted a row with one text, found a preference\nhint: score its two replies as rows of their own")
        }
    }
}

fn render(chat: &Chat, ending: Ending, tokenizer: &Tokenizer) -> Result<String> {
    Ok(tokenizer.render(chat, ending)?)
}

/// What stands before the answer.
fn last_said(messages: &[Message]) -> String {
    messages.last().map(Message::text).unwrap_or_default()
}
