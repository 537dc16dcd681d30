//! What replies earn: rules, a lexicon, a program outside, a reward model.
//!
//! A [`Reward`] scores replies; one that cannot be scored is told why, and teaches nothing, while the others do.
//! [`Rewards`] is the weighted sum of several.

mod answers;
mod command;
mod lexicon;
mod model;
mod program;
mod rule;
mod sum;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

pub use answers::Answers;
pub use command::{Command, TIMEOUT_SECONDS};
pub use lexicon::Lexicon;
pub use model::ModelReward;
pub use rule::Rule;
pub use sum::{Rewards, Verdict};

/// A reply with what it answers.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The prompt, as text.
    pub prompt: &'a str,
    /// The reply, as text without special tokens.
    pub reply: &'a str,
    /// Prompt and reply as the policy reads them.
    pub tokens: &'a [u32],
    /// How many of the tokens are the reply's.
    pub num_tokens: usize,
    /// The other columns of the prompt's row.
    pub extra: &'a Map<String, Value>,
}

/// Something that scores replies.
pub trait Reward {
    /// What its scores are called in the metrics.
    fn name(&self) -> &str;

    /// The score of each reply, or why it has none.
    ///
    /// Errors: scores of which it is not known whose they are.
    fn scores(&self, replies: &[Said]) -> Result<Vec<Result<f64, String>>>;
}

/// A reward in a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardFunction {
    /// 1 minus how far the reply's length lies from `target` tokens, relative to it; not below -1.
    Length {
        /// The wanted length of a reply, in tokens.
        target: usize,
        /// What the score counts in the sum of all rewards.
        #[serde(default = "one")]
        weight: f64,
    },
    /// 1 for a reply in which `pattern` is found, else 0.
    Regex {
        /// The regular expression that is looked for.
        pattern: String,
        /// What the score counts in the sum of all rewards.
        #[serde(default = "one")]
        weight: f64,
    },
    /// 1 for a reply that is what the row's `column` says, apart from space around it, else 0.
    Exact {
        /// The column of the row that holds the right reply.
        column: String,
        /// What the score counts in the sum of all rewards.
        #[serde(default = "one")]
        weight: f64,
    },
    /// 1 for a reply that is valid JSON, else 0.
    Json {
        /// What the score counts in the sum of all rewards.
        #[serde(default = "one")]
        weight: f64,
    },
    /// 1 for a reply that a shell could run as one command, else 0.
    Shell {
        /// A column of the row with a command; a reply that runs another program than that one counts a half.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<String>,
        /// What the score counts in the sum of all rewards.
        #[serde(default = "one")]
        weight: f64,
    },
    /// The sentiment of the reply's words, -1 to 1, by a lexicon in VADER's format.
    Lexicon {
        /// A file of lines `word TAB valence …`.
        path: PathBuf,
        /// What the score counts in the sum of all rewards.
        #[serde(default = "one")]
        weight: f64,
    },
    /// A program that reads a JSON object a line (`id`, `prompt`, `reply`, the row's columns) and answers each by a line
    /// `{"id": …, "score": …}`.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// Seconds without an answer after which it is stopped, and the run with it.
        #[serde(default = "timeout", skip_serializing_if = "is_timeout")]
        timeout_seconds: f64,
        /// What the score counts in the sum of all rewards.
        #[serde(default = "one")]
        weight: f64,
    },
    /// What a reward model says: a sequence classifier of one label, of the policy's own vocabulary.
    Model {
        /// A model directory, or a name in the local store.
        model: String,
        /// The folder of a reward adapter over the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adapter: Option<PathBuf>,
        /// What the score counts in the sum of all rewards.
        #[serde(default = "one")]
        weight: f64,
    },
}

fn one() -> f64 {
    1.0
}

fn timeout() -> f64 {
    TIMEOUT_SECONDS
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "as serde asks: the default is not written"
)]
fn is_timeout(seconds: &f64) -> bool {
    *seconds == TIMEOUT_SECONDS
}

/// Opens a reward model by the model's name and its adapter.
pub type OpenModel<'a> =
    dyn FnMut(&str, Option<&Path>) -> Result<ModelReward, Box<dyn std::error::Error + Send + Sync>> + 'a;

impl RewardFunction {
    /// The reward, ready to score.
    ///
    /// Errors: a pattern that is none, a lexicon that cannot be read, no command, what `open` refuses.
    pub fn ready(&self, open: &mut OpenModel) -> Result<Box<dyn Reward>> {
        Ok(match self {
            Self::Length { target, .. } => Box::new(Rule::length(*target)?),
            Self::Regex { pattern, .. } => Box::new(Rule::regex(pattern)?),
            Self::Exact { column, .. } => Box::new(Rule::exact(column)),
            Self::Json { .. } => Box::new(Rule::json()),
            Self::Shell { column, .. } => Box::new(Rule::shell(column.as_deref())),
            Self::Model { model, adapter, .. } => {
                Box::new(open(model, adapter.as_deref()).map_err(Error::RewardModel)?)
            }
            Self::Lexicon { path, .. } => Box::new(Lexicon::open(path)?),
            Self::Command {
                command,
                timeout_seconds,
                ..
            } => Box::new(Command::new(command, *timeout_seconds)?),
        })
    }

    /// What its score counts in the sum of rewards.
    pub fn weight(&self) -> f64 {
        match self {
            Self::Length { weight, .. }
            | Self::Regex { weight, .. }
            | Self::Exact { weight, .. }
            | Self::Json { weight }
            | Self::Shell { weight, .. }
            | Self::Model { weight, .. }
            | Self::Lexicon { weight, .. }
            | Self::Command { weight, .. } => *weight,
        }
    }
}
