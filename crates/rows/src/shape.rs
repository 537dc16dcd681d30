//! Which of the known shapes a file's rows have: told by their keys, and never guessed.
//!
//! A shape fits if all its keys are there with a value. Of the shapes that fit, one whose keys are among another's
//! is dropped (`prompt` among `prompt, completion`). If more than one is left, those with an empty column give way; of
//! the rest the first of `PRECEDENCE` is taken, if the columns of the others say the same as its own: each text of theirs
//! is one of its texts (`UltraChat`'s `prompt` is the first of its `messages`), or their only text shows all of its texts in
//! order (Alpaca's `text` is its row, rendered). Else the row is refused as ambiguous.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::message::is_absent;
use crate::{Problem, columns};

/// The shapes of rows that are read; each is named by its keys in `NAMES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// TRL's language modelling: `text`.
    Text,
    /// Classification: `text`, `label`.
    Labelled,
    /// TRL's and OpenAI's conversation: `messages`, with `tools` if there are any.
    Messages,
    /// ShareGPT's conversation: `conversations` of `{from, value}`, with `system` and `tools`.
    ShareGpt,
    /// ShareGPT's conversation with two answers: `conversations`, `chosen`, `rejected`.
    ShareGptPreference,
    /// Alpaca's: `instruction`, `output`, with `input`, `system` and `history`.
    Alpaca,
    /// Alpaca's with two answers: `instruction`, `chosen`, `rejected`.
    AlpacaPreference,
    /// TRL's `prompt`, `completion`.
    PromptCompletion,
    /// TRL's `prompt`, `completion`, `label`.
    Unpaired,
    /// TRL's `prompt` alone; other columns are kept for rewards.
    PromptOnly,
    /// TRL's `prompt`, `chosen`, `rejected`.
    Preference,
    /// TRL's `chosen`, `rejected`, whose common beginning is the prompt.
    ImplicitPreference,
    /// OpenAI's `input`, `preferred_output`, `non_preferred_output`.
    OpenAiPreference,
    /// OpenAI evals' `input`, `ideal`; of several ideals the first is learnt.
    Eval,
}

/// Every shape with its name and the keys that it needs.
const NAMES: [(Shape, &str, &[&str]); 14] = [
    (Shape::Text, "text", &["text"]),
    (Shape::Labelled, "labelled", &["text", "label"]),
    (Shape::Messages, "messages", &["messages"]),
    (Shape::ShareGpt, "share_gpt", &["conversations"]),
    (
        Shape::ShareGptPreference,
        "share_gpt_preference",
        &["conversations", "chosen", "rejected"],
    ),
    (Shape::Alpaca, "alpaca", &["instruction", "output"]),
    (
        Shape::AlpacaPreference,
        "alpaca_preference",
        &["instruction", "chosen", "rejected"],
    ),
    (Shape::PromptCompletion, "prompt_completion", &["prompt", "completion"]),
    (Shape::Unpaired, "unpaired", &["prompt", "completion", "label"]),
    (Shape::PromptOnly, "prompt_only", &["prompt"]),
    (Shape::Preference, "preference", &["prompt", "chosen", "rejected"]),
    (
        Shape::ImplicitPreference,
        "implicit_preference",
        &["chosen", "rejected"],
    ),
    (
        Shape::OpenAiPreference,
        "open_ai_preference",
        &["input", "preferred_output", "non_preferred_output"],
    ),
    (Shape::Eval, "eval", &["input", "ideal"]),
];

/// Of shapes that fit equally well and say the same, the first is taken: two replies before one, turns before texts.
const PRECEDENCE: [Shape; 14] = [
    Shape::ShareGptPreference,
    Shape::AlpacaPreference,
    Shape::OpenAiPreference,
    Shape::Preference,
    Shape::ImplicitPreference,
    Shape::Unpaired,
    Shape::Messages,
    Shape::ShareGpt,
    Shape::Alpaca,
    Shape::PromptCompletion,
    Shape::Eval,
    Shape::Labelled,
    Shape::PromptOnly,
    Shape::Text,
];

impl Shape {
    /// Every shape.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.into_iter().map(|entry| entry.0)
    }

    /// The shape of a name.
    ///
    /// ```
    /// assert_eq!(rows::Shape::named("alpaca"), Some(rows::Shape::Alpaca));
    /// ```
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|shape| shape.name() == name)
    }

    /// The shape's name, as `shape = "…"` in a recipe gives it.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// The keys that every row of this shape has.
    pub fn keys(self) -> &'static [&'static str] {
        self.entry().2
    }

    /// Recognises a row's shape.
    pub fn of(row: &Map<String, Value>) -> Result<Self, Problem> {
        let fitting: Vec<Self> = NAMES
            .iter()
            .map(|entry| entry.0)
            .filter(|shape| shape.fits(row))
            .collect();
        let best: Vec<Self> = fitting
            .iter()
            .copied()
            .filter(|shape| !fitting.iter().any(|other| shape.within(*other)))
            .collect();
        match best.as_slice() {
            [shape] => Ok(*shape),
            [] => Err(Problem::UnknownShape {
                found: row.keys().cloned().collect(),
            }),
            several => Self::first_of(several, row).ok_or_else(|| Problem::AmbiguousShape {
                shapes: several.iter().map(|s| s.name().to_owned()).collect(),
            }),
        }
    }

    /// Of shapes that fit equally well, the one that says all that the others say.
    fn first_of(several: &[Self], row: &Map<String, Value>) -> Option<Self> {
        let is_full = |shape: &Self| shape.keys().iter().all(|key| !is_absent(&row[*key]));
        let full: Vec<Self> = several.iter().copied().filter(is_full).collect();
        let candidates = if full.is_empty() { several } else { &full };
        let first = PRECEDENCE.into_iter().find(|shape| candidates.contains(shape))?;
        let others = candidates.iter().filter(|other| **other != first);
        others
            .into_iter()
            .all(|other| first.says_as(*other, row))
            .then_some(first)
    }

    /// Whether another shape's columns say nothing but what this one's say.
    fn says_as(self, other: Self, row: &Map<String, Value>) -> bool {
        let own = self.texts(row);
        let others = other.texts(row);
        let same = |text: &&str| own.iter().any(|own| own.trim() == text.trim());
        if others.iter().all(same) {
            return true;
        }
        let [rendered] = others.as_slice() else { return false };
        let mut from = 0;
        own.iter().all(|text| match rendered[from..].find(text.trim()) {
            Some(at) => {
                from += at + text.trim().len();
                true
            }
            None => false,
        })
    }

    /// What the shape's columns say, in order.
    fn texts(self, row: &Map<String, Value>) -> Vec<&str> {
        let beside: &[&str] = match self {
            Self::Alpaca | Self::AlpacaPreference => &["input"],
            _ => &[],
        };
        // Alpaca's input stands between its instruction and its output.
        let (first, rest) = self.keys().split_at(1);
        let keys = first.iter().chain(beside).chain(rest);
        keys.filter(|key| **key != "label")
            .filter_map(|key| row.get(*key))
            .flat_map(columns::texts)
            .collect()
    }

    /// Refuses a row that lacks one of the shape's keys.
    pub(crate) fn check(self, row: &Map<String, Value>) -> Result<(), Problem> {
        if self.fits(row) {
            return Ok(());
        }
        Err(Problem::MissingKeys {
            shape: self.name().to_owned(),
            wanted: self.keys().iter().map(|&key| key.to_owned()).collect(),
            found: row
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, _)| key.clone())
                .collect(),
        })
    }

    pub(crate) fn listing() -> String {
        NAMES.map(|(_, _, keys)| format!("`{}`", keys.join(", "))).join("; ")
    }

    fn fits(self, row: &Map<String, Value>) -> bool {
        // An empty reply is there and can be dropped; an empty label is none.
        let is_there = |key: &str, value: &Value| !value.is_null() && (key != "label" || !is_absent(value));
        self.keys()
            .iter()
            .all(|key| row.get(*key).is_some_and(|value| is_there(key, value)))
    }

    fn within(self, other: Self) -> bool {
        self != other && self.keys().iter().all(|key| other.keys().contains(key))
    }

    fn entry(self) -> &'static (Self, &'static str, &'static [&'static str]) {
        NAMES
            .iter()
            .find(|entry| entry.0 == self)
            .expect("NAMES lists every shape, which a test checks")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(keys: &str) -> Map<String, Value> {
        keys.split_whitespace()
            .map(|key| (key.to_owned(), Value::from("x")))
            .collect()
    }

    #[test]
    fn every_shape_is_told_by_its_own_keys() {
        for (shape, name, keys) in NAMES {
            assert_eq!(Shape::of(&row(&keys.join(" "))), Ok(shape));
            assert_eq!(serde_json::to_value(shape).expect("shapes serialise"), name);
        }
    }

    #[test]
    fn other_columns_do_not_matter() {
        for (keys, shape) in [
            ("id prompt completion score", Shape::PromptCompletion),
            ("instruction input output", Shape::Alpaca),
            ("prompt answer", Shape::PromptOnly),
            ("messages tools", Shape::Messages),
        ] {
            assert_eq!(Shape::of(&row(keys)), Ok(shape), "{keys}");
        }
    }

    fn of(row: &Value) -> Result<Shape, Problem> {
        Shape::of(row.as_object().expect("the row is an object"))
    }

    #[test]
    fn every_shape_has_its_place_in_the_precedence() {
        for (shape, ..) in NAMES {
            assert!(PRECEDENCE.contains(&shape), "{}", shape.name());
        }
    }

    #[test]
    fn of_shapes_that_say_the_same_the_first_is_taken() {
        let hi = json!({"role": "user", "content": "hi"});
        let yes = json!([hi, {"role": "assistant", "content": "yes"}]);
        let no = json!([hi, {"role": "assistant", "content": "no"}]);
        for (row, wanted) in [
            // UltraChat-200k.
            (
                json!({"prompt": " hi\n", "prompt_id": "x", "messages": yes}),
                Shape::Messages,
            ),
            // UltraFeedback-binarized.
            (
                json!({"prompt": "hi", "chosen": yes, "rejected": no, "messages": yes, "score_chosen": 8.0}),
                Shape::Preference,
            ),
            // Alpaca.
            (
                json!({"instruction": "Add.", "input": "1 2", "output": "3", "text": "Below …\nAdd.\n\n1 2\n\n3"}),
                Shape::Alpaca,
            ),
            (
                json!({"instruction": "Add.", "input": "", "output": "3", "prompt": "Below …\nAdd.\n\n3"}),
                Shape::Alpaca,
            ),
            (
                json!({"messages": yes, "text": "user: hi\nassistant: yes"}),
                Shape::Messages,
            ),
            (json!({"prompt": [hi], "messages": yes}), Shape::Messages),
            (
                json!({"prompt": "a ", "completion": "b", "text": "a b"}),
                Shape::PromptCompletion,
            ),
            // Empty columns give way.
            (json!({"text": "a", "messages": []}), Shape::Text),
            (json!({"text": "", "messages": yes}), Shape::Messages),
            (json!({"text": "a", "label": ""}), Shape::Text),
        ] {
            assert_eq!(of(&row), Ok(wanted), "{row}");
        }
    }

    #[test]
    fn shapes_that_say_different_things_are_refused() {
        let chat = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]);
        for row in [
            json!({"text": "other", "messages": chat}),
            json!({"text": "yes, hi", "messages": chat}),
            json!({"prompt": "other", "messages": chat}),
            json!({"instruction": "a", "output": "b", "text": "c"}),
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "messages": chat}),
        ] {
            assert!(matches!(of(&row), Err(Problem::AmbiguousShape { .. })), "{row}");
        }
        assert!(matches!(
            of(&json!({"question": "a", "answer": "b"})),
            Err(Problem::UnknownShape { .. })
        ));
    }

    #[test]
    fn a_null_counts_as_absent() {
        let mut row = row("prompt completion");
        row.insert("text".to_owned(), Value::Null);
        assert_eq!(Shape::of(&row), Ok(Shape::PromptCompletion));
    }
}
