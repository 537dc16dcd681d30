//! A suite: the tasks of one evaluation, as a TOML file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use data::{ReadConfig, Shape};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The tasks of a suite file, in order; `docs/data.md` shows one of each kind.
///
/// ```
/// let suite = r#"
///     [[task]]
///     name = "arithmetic"
///     kind = "exact_match"
///     data = "sums.csv"
///     columns = { question = "sum", answer = "result" }
///     tolerance = 0.01
/// "#;
/// let suite: evaluate::Suite = toml::from_str(suite)?;
/// assert_eq!(suite.tasks[0].columns["answer"], "result");
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// `[[task]]` entries.
    #[serde(rename = "task")]
    pub tasks: Vec<Task>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name in the report.
    pub name: String,
    /// What is measured.
    pub kind: Kind,
    /// The data file; relative paths are looked up beside the suite.
    pub data: PathBuf,
    /// Rows that are used, from the first.
    #[serde(default)]
    pub max_rows: Option<usize>,
    /// Tokens of context: a longer text is read in windows (perplexity), a longer prompt is an error.
    #[serde(default = "default_length")]
    pub max_length: usize,
    /// Tokens from one window to the next; each token is scored once, with at least `max_length - stride` before it.
    #[serde(default)]
    pub stride: Option<usize>,
    /// The classes, as the assistant would write them; without, those that occur in the data.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How the scores of answers of unequal length are compared.
    #[serde(default)]
    pub normalise: Normalise,
    /// Tokens that an answer may have.
    #[serde(default = "default_new_tokens")]
    pub max_new_tokens: usize,
    /// What the tokens of `replies` are drawn with; 0 takes the likeliest.
    #[serde(default)]
    pub temperature: f64,
    /// Which numbers they are drawn with.
    #[serde(default)]
    pub seed: u64,
    /// What `replies` earn, as in a recipe of PPO: tables with a `kind`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<toml::Table>,
    /// How much worse a later report may be: a difference of accuracies, a relative difference of perplexities.
    #[serde(default = "default_tolerance")]
    pub tolerance: f64,
    /// The rows' shape, where their columns fit several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Columns under other names: wanted name to the file's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// The column of a plain text.
    #[serde(default)]
    pub text_field: Option<String>,
    /// The column of a question.
    #[serde(default)]
    pub question_field: Option<String>,
    /// The column of the choices: a list of texts.
    #[serde(default)]
    pub choices_field: Option<String>,
    /// The column of the right answer: its text, number (from 0) or letter.
    #[serde(default)]
    pub answer_field: Option<String>,
}

/// What a task measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Perplexity and bits per byte of texts.
    Perplexity,
    /// Which of a fixed set of answers is likeliest.
    Classification,
    /// Which of a row's own choices is likeliest.
    MultipleChoice,
    /// Whether the greedy answer is the right one.
    ExactMatch,
    /// Whether the better of two replies is the likelier one, and by how much.
    Pairs,
    /// What the model says: its length, its rewards, its distance from the base beneath the adapters.
    Replies,
}

/// What an answer's log-probability is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// Nothing.
    #[default]
    Sum,
    /// Its tokens.
    PerToken,
    /// Its bytes.
    PerByte,
}

fn default_length() -> usize {
    1024
}

fn default_new_tokens() -> usize {
    32
}

fn default_tolerance() -> f64 {
    0.02
}

impl Task {
    /// The perplexity of the texts in a file, read in windows of `max_length` tokens.
    pub fn perplexity(name: &str, data: PathBuf, max_length: usize) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Perplexity,
            data,
            max_rows: None,
            max_length,
            stride: None,
            labels: Vec::new(),
            normalise: Normalise::default(),
            max_new_tokens: default_new_tokens(),
            temperature: 0.0,
            seed: 0,
            rewards: Vec::new(),
            tolerance: default_tolerance(),
            shape: None,
            columns: BTreeMap::new(),
            text_field: None,
            question_field: None,
            choices_field: None,
            answer_field: None,
        }
    }

    /// How the task's file is read.
    pub fn reading(&self) -> ReadConfig {
        ReadConfig {
            shape: self.shape,
            columns: self.columns.clone(),
            ..ReadConfig::default()
        }
    }
}

impl Task {
    /// The same task for a model of so many positions.
    pub(crate) fn within(&self, positions: Option<usize>) -> Self {
        let max_length = self.max_length.min(positions.unwrap_or(usize::MAX)).max(2);
        Self {
            max_length,
            stride: self.stride.map(|stride| stride.min(max_length)),
            ..self.clone()
        }
    }
}

impl Suite {
    /// Reads a suite; its data paths are made relative to the working directory.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut suite: Self = toml::from_str(&text).map_err(|source| Error::Suite {
            path: path.to_owned(),
            message: source.to_string(),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for task in &mut suite.tasks {
            if task.data.is_relative() && !task.data.exists() {
                task.data = folder.join(&task.data);
            }
        }
        suite.check()?;
        Ok(suite)
    }

    fn check(&self) -> Result<()> {
        for (idx, task) in self.tasks.iter().enumerate() {
            let refuse = |found: String, hint: &str| {
                Err(Error::Task {
                    task: task.name.clone(),
                    found,
                    hint: hint.into(),
                })
            };
            if self.tasks[..idx].iter().any(|other| other.name == task.name) {
                return refuse(
                    "two tasks have this name".into(),
                    "names are the report's keys; give each its own",
                );
            }
            if task.max_length < 2
                || task
                    .stride
                    .is_some_and(|stride| stride == 0 || stride > task.max_length)
            {
                let stride = task
                    .stride
                    .map_or_else(|| "none".to_owned(), |stride| stride.to_string());
                let found = format!("`max_length` {} with `stride` {stride}", task.max_length);
                return refuse(
                    found,
                    "a window has at least 2 tokens, and a stride is at most a window",
                );
            }
            if !(task.rewards.is_empty() || task.kind == Kind::Replies) {
                return refuse(
                    "`rewards`, of another kind than `replies`".into(),
                    "remove them, or set `kind = \"replies\"`",
                );
            }
            if !(task.temperature >= 0.0 && task.temperature.is_finite()) {
                return refuse(
                    format!("`temperature` {}", task.temperature),
                    "0 takes the likeliest token, 1 is the model's own",
                );
            }
            if task.labels.len() == 1 {
                return refuse(
                    "`labels` has one class".into(),
                    "name every class, or none to take those of the data",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Suite> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("suite.toml");
        fs::write(&path, text).unwrap();
        Suite::load(&path)
    }

    #[test]
    fn data_lies_beside_the_suite() {
        let suite = load("[[task]]\nname = \"a\"\nkind = \"perplexity\"\ndata = \"a.txt\"\n").unwrap();
        assert!(suite.tasks[0].data.ends_with("a.txt") && suite.tasks[0].data.is_absolute());
        assert_eq!(
            (suite.tasks[0].max_length, suite.tasks[0].normalise),
            (1024, Normalise::Sum)
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = load("[[task]]\nname = \"a\"\nkind = \"perplexity\"\ndata = \"a.txt\"\nmax_row = 3\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("suite.toml") && error.contains("max_row") && error.contains("line 5"),
            "{error}"
        );
    }

    #[test]
    fn two_tasks_of_one_name_are_refused() {
        let task = "[[task]]\nname = \"a\"\nkind = \"perplexity\"\ndata = \"a.txt\"\n";
        assert!(
            load(&format!("{task}{task}"))
                .unwrap_err()
                .to_string()
                .contains("two tasks have this name")
        );
    }
}
