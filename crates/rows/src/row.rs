//! What one row of a data set says, whichever of the many shapes its file wrote it in.

use serde_json::{Map, Value};

use crate::{Chat, Message};

/// A row in its normal form.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a file's rows are all of one variant")]
pub enum Row {
    /// Plain text, to be continued.
    Text(String),
    /// A conversation with the assistant's turns in it.
    Chat(Chat),
    /// A prompt and the reply to learn.
    Prompted(Exchange),
    /// Two replies to one prompt, of which the first is the better.
    Preference {
        /// The prompt with the better reply.
        chosen: Exchange,
        /// The prompt with the worse reply.
        rejected: Exchange,
    },
    /// A reply that is good or bad.
    Unpaired {
        /// Prompt and reply.
        exchange: Exchange,
        /// Whether the reply is a good one.
        desirable: bool,
    },
    /// A prompt whose replies the model itself will write.
    PromptOnly {
        /// The prompt.
        prompt: Prompt,
        /// The row's other columns, for rewards.
        extra: Map<String, Value>,
    },
    /// A text and its class.
    Labelled {
        /// What is to be classified.
        text: String,
        /// Its class.
        label: Label,
    },
}

/// A prompt and its reply, both texts or both turns.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a file's rows are all of one variant")]
pub enum Exchange {
    /// Plain texts; the reply follows the prompt without anything between.
    Text {
        /// What is given.
        prompt: String,
        /// What is to be learnt.
        reply: String,
    },
    /// Turns of a conversation.
    Turns {
        /// The turns that are given.
        prompt: Chat,
        /// The turns that follow.
        reply: Vec<Message>,
    },
}

/// A prompt alone.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a file's rows are all of one variant")]
pub enum Prompt {
    /// Plain text.
    Text(String),
    /// Turns, the last of them not the assistant's.
    Turns(Chat),
}

/// A class, by name or number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// Its number, from 0.
    Id(u32),
    /// Its name.
    Name(String),
}

impl Row {
    /// What kind of row it is, in words for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a plain text",
            Self::Chat(_) => "a conversation",
            Self::Prompted(_) => "a prompt with its reply",
            Self::Preference { .. } => "a pair of replies, one chosen and one rejected",
            Self::Unpaired { .. } => "a reply that is marked as good or bad",
            Self::PromptOnly { .. } => "a prompt without a reply",
            Self::Labelled { .. } => "a text with a label",
        }
    }

    /// What the model is given in this row, as one string: rows with the same input are duplicates of each other.
    ///
    /// A conversation's input is everything before its last assistant turn; a plain text is its own input.
    pub fn input(&self) -> String {
        match self {
            Self::Text(text)
            | Self::Labelled { text, .. }
            | Self::PromptOnly {
                prompt: Prompt::Text(text),
                ..
            } => text.clone(),
            Self::Chat(chat) => {
                let last = chat.messages.iter().rposition(|message| message.role() == "assistant");
                said(&chat.messages[..last.unwrap_or(chat.messages.len())])
            }
            Self::Prompted(exchange) | Self::Preference { chosen: exchange, .. } | Self::Unpaired { exchange, .. } => {
                exchange.input()
            }
            Self::PromptOnly {
                prompt: Prompt::Turns(chat),
                ..
            } => said(&chat.messages),
        }
    }
}

impl Exchange {
    fn input(&self) -> String {
        match self {
            Self::Text { prompt, .. } => prompt.clone(),
            Self::Turns { prompt, .. } => said(&prompt.messages),
        }
    }

    /// The whole conversation; `None` for plain texts.
    pub fn chat(&self) -> Option<Chat> {
        match self {
            Self::Text { .. } => None,
            Self::Turns { prompt, reply } => {
                Some(prompt.with_messages(prompt.messages.iter().chain(reply).cloned().collect()))
            }
        }
    }

    /// The reply's text.
    pub fn reply_text(&self) -> String {
        match self {
            Self::Text { reply, .. } => reply.clone(),
            Self::Turns { reply, .. } => reply.iter().map(Message::text).collect::<Vec<_>>().join("\n"),
        }
    }
}

fn said(messages: &[Message]) -> String {
    let mut all = String::new();
    for message in messages {
        all.extend([message.role(), "\n", message.text().as_str(), "\n"]);
        for key in ["tool_calls", "function_call"] {
            if let Some(calls) = message.fields().get(key) {
                all.extend([calls.to_string().as_str(), "\n"]);
            }
        }
    }
    all
}
