//! How a prompt that is a plain text is given to a model: as a turn of a conversation, or as it stands.

use std::borrow::Cow;

use crate::{Chat, Exchange, Message, Prompt, Row};

/// What becomes of a prompt that is a plain text. Turns are always turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptForm {
    /// The user's turn of a conversation, which the chat template renders.
    Turn,
    /// The text, with nothing around it; its reply follows it without anything between.
    Text,
}

impl PromptForm {
    /// The prompt in this form.
    pub fn of(self, prompt: Prompt) -> Prompt {
        match (self, prompt) {
            (Self::Turn, Prompt::Text(text)) => Prompt::Turns(user(&text)),
            (_, prompt) => prompt,
        }
    }

    /// The row with its prompts in this form.
    pub fn of_row(self, row: &Row) -> Cow<'_, Row> {
        if self == Self::Text || row.gives_turns() != Some(false) {
            return Cow::Borrowed(row);
        }
        match row {
            Row::Prompted(exchange) => Cow::Owned(Row::Prompted(turns(exchange))),
            Row::Preference { chosen, rejected } => Cow::Owned(Row::Preference {
                chosen: turns(chosen),
                rejected: turns(rejected),
            }),
            Row::Unpaired { exchange, desirable } => Cow::Owned(Row::Unpaired {
                exchange: turns(exchange),
                desirable: *desirable,
            }),
            Row::PromptOnly { prompt, extra } => Cow::Owned(Row::PromptOnly {
                prompt: self.of(prompt.clone()),
                extra: extra.clone(),
            }),
            Row::Text(_) | Row::Chat(_) | Row::Labelled { .. } => Cow::Borrowed(row),
        }
    }
}

impl Row {
    /// Whether what a model is given in this row are turns; none for a text and its class, which has no prompt.
    pub fn gives_turns(&self) -> Option<bool> {
        match self {
            Self::Labelled { .. } => None,
            Self::Text(_)
            | Self::Prompted(Exchange::Text { .. })
            | Self::Preference {
                chosen: Exchange::Text { .. },
                ..
            }
            | Self::Unpaired {
                exchange: Exchange::Text { .. },
                ..
            }
            | Self::PromptOnly {
                prompt: Prompt::Text(_),
                ..
            } => Some(false),
            _ => Some(true),
        }
    }
}

/// A reply that followed its prompt exactly is trimmed, as templates trim turns.
fn turns(exchange: &Exchange) -> Exchange {
    match exchange {
        Exchange::Text { prompt, reply } => Exchange::Turns {
            prompt: user(prompt),
            reply: vec![Message::new("assistant", reply.trim())],
        },
        turns @ Exchange::Turns { .. } => turns.clone(),
    }
}

fn user(text: &str) -> Chat {
    Chat::new(vec![Message::new("user", text)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_prompt_becomes_a_turn_and_turns_stay() {
        let text = Row::Prompted(Exchange::Text {
            prompt: "2 + 2 is".to_owned(),
            reply: " 4".to_owned(),
        });
        let asked = PromptForm::Turn.of_row(&text).into_owned();
        let turns = Row::Prompted(Exchange::Turns {
            prompt: user("2 + 2 is"),
            reply: vec![Message::new("assistant", "4")],
        });
        assert_eq!(asked, turns);
        assert_eq!((text.gives_turns(), turns.gives_turns()), (Some(false), Some(true)));
        assert_eq!(*PromptForm::Text.of_row(&text), text);
        assert_eq!(*PromptForm::Turn.of_row(&turns), turns);
        // A text that is no prompt is scored as it stands.
        let plain = Row::Text("a".to_owned());
        assert_eq!(*PromptForm::Turn.of_row(&plain), plain);
    }
}
