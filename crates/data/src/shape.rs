//! Which of the known shapes a file's rows have: told by their keys alone, and never guessed.
//!
//! A shape fits if all its keys are there with a value. Of the shapes that fit, one whose keys are among another's
//! is dropped (`prompt` among `prompt, completion`); if more than one is left, the row is refused as ambiguous.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Problem;

/// The shapes of rows that are read; each is named by its keys in `NAMES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

impl Shape {
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
            several => Err(Problem::AmbiguousShape {
                shapes: several.iter().map(|s| s.name().to_owned()).collect(),
            }),
        }
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
        self.keys()
            .iter()
            .all(|key| row.get(*key).is_some_and(|value| !value.is_null()))
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

    #[test]
    fn shapes_that_fit_equally_well_are_refused() {
        for keys in [
            "text messages",
            "prompt messages",
            "instruction output text",
            "messages prompt chosen rejected",
        ] {
            assert!(
                matches!(Shape::of(&row(keys)), Err(Problem::AmbiguousShape { .. })),
                "{keys}"
            );
        }
        assert!(matches!(
            Shape::of(&row("question answer")),
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
