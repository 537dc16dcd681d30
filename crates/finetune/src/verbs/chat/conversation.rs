//! What was said in a chat, and how much of it the model can see.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use data::{Chat, Message, Tokenizer};
use models::prompts;
use serde_json::json;

/// Turns, user and assistant by turns.
#[derive(Clone, Debug, Default)]
pub(super) struct Conversation {
    /// Instructions before the first turn.
    pub(super) system: Option<String>,
    turns: Vec<Message>,
}

/// How a conversation fits into the model's positions.
pub(super) enum Room {
    /// As it is: its tokens.
    Fits(Vec<u32>),
    /// Without so many of its oldest turns.
    Forgot(usize, Vec<u32>),
    /// Its last turn alone has so many tokens, too many.
    None(usize),
}

impl Conversation {
    pub(super) fn new(system: Option<String>) -> Self {
        Self {
            system,
            turns: Vec::new(),
        }
    }

    /// Adds a turn of the user's.
    pub(super) fn ask(&mut self, said: &str) {
        self.turns.push(Message::new("user", said));
    }

    /// Adds the assistant's answer.
    pub(super) fn answer(&mut self, said: &str) {
        self.turns.push(Message::new("assistant", said));
    }

    /// Removes a last turn that has no answer.
    pub(super) fn take_back(&mut self) {
        if self.turns.last().is_some_and(|turn| turn.role() == "user") {
            self.turns.pop();
        }
    }

    /// Removes the last answer and keeps its question; false if there is none.
    pub(super) fn reopen(&mut self) -> bool {
        let is_answered = self.turns.last().is_some_and(|turn| turn.role() == "assistant");
        if is_answered {
            self.turns.pop();
        }
        is_answered
    }

    /// Removes the last question with its answer; false if there is none.
    pub(super) fn undo(&mut self) -> bool {
        let is_answered = self.reopen();
        self.take_back();
        is_answered
    }

    /// Forgets every turn; the instructions stay.
    pub(super) fn clear(&mut self) {
        self.turns.clear();
    }

    fn messages(&self, turns: &[Message]) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(turns.iter().cloned()).collect()
    }

    /// The tokens that the next answer follows. Where they leave no room for it, the oldest turns are forgotten.
    pub(super) fn fit(&mut self, tokenizer: &Tokenizer, positions: usize, max_new_tokens: usize) -> Result<Room> {
        let room = max_new_tokens.clamp(1, (positions / 4).max(1));
        let mut first = 0;
        loop {
            let kept = &self.turns[first..];
            let prompt = prompts::turns(&Chat::new(self.messages(kept)), tokenizer)?;
            let is_last = kept.len() <= 1;
            if prompt.len() + room <= positions || (is_last && prompt.len() < positions) {
                self.turns.drain(..first);
                return Ok(match first {
                    0 => Room::Fits(prompt),
                    forgotten => Room::Forgot(forgotten, prompt),
                });
            }
            if is_last {
                return Ok(Room::None(prompt.len()));
            }
            // A question goes with its answer.
            first += 2;
        }
    }

    /// Adds the conversation to a file of rows; the line that it became.
    pub(super) fn save(&self, path: &Path) -> Result<usize> {
        let messages: Vec<_> = self
            .messages(&self.turns)
            .iter()
            .map(|message| json!({ "role": message.role(), "content": message.text() }))
            .collect();
        let place = || format!("`{}` cannot be written", path.display());
        let there = match std::fs::read(path) {
            Ok(there) => there,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(place),
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(place)?;
        let begin = if there.is_empty() || there.ends_with(b"\n") {
            ""
        } else {
            "\n"
        };
        file.write_all(format!("{begin}{}\n", json!({ "messages": messages })).as_bytes())
            .with_context(place)?;
        let lines = there.split_inclusive(|byte| *byte == b'\n').count();
        Ok(lines + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(conversation: &Conversation) -> Vec<String> {
        conversation.turns.iter().map(Message::text).collect()
    }

    #[test]
    fn turns_are_taken_back_with_their_answers() {
        let mut chat = Conversation::new(None);
        assert!(!chat.undo() && !chat.reopen());
        for (question, answer) in [("a", "b"), ("c", "d")] {
            chat.ask(question);
            chat.answer(answer);
        }
        assert!(chat.reopen());
        assert_eq!(said(&chat), ["a", "b", "c"]);
        chat.take_back();
        assert_eq!(said(&chat), ["a", "b"]);
        assert!(chat.undo());
        assert!(said(&chat).is_empty());
    }

    #[test]
    fn saving_adds_a_row_and_loses_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("chats.jsonl");
        std::fs::write(&path, "{\"messages\": []}").unwrap();
        let mut chat = Conversation::new(Some("Be brief.".into()));
        chat.ask("a\nb");
        chat.answer("c");
        assert_eq!(chat.save(&path).unwrap(), 2);
        assert_eq!(chat.save(&path).unwrap(), 3);
        let text = std::fs::read_to_string(&path).unwrap();
        let row = "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"a\\nb\"},\
                   {\"role\":\"assistant\",\"content\":\"c\"}]}";
        assert_eq!(text, format!("{{\"messages\": []}}\n{row}\n{row}\n"));
        assert!(chat.save(home.path()).is_err());
    }
}
