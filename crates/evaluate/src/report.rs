//! What an evaluation found: JSON for machines, a table for people.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use data::PromptForm;
use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result};

/// The results of a suite on one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model, as the caller names it.
    pub model: String,
    /// How prompts that are plain texts were given; nothing where rows' shapes say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_prompts: Option<PlainPrompts>,
    /// Results by task.
    pub tasks: BTreeMap<String, TaskReport>,
}

/// How prompts that are plain texts were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlainPrompts {
    /// As turns, in the chat template.
    ChatTemplate,
    /// As they stand.
    RawText,
}

impl PlainPrompts {
    /// Of a scorer's form.
    pub fn of(form: PromptForm) -> Self {
        match form {
            PromptForm::Turn => Self::ChatTemplate,
            PromptForm::Text => Self::RawText,
        }
    }
}

/// One task's results; what the task does not measure is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// What was measured.
    pub kind: Kind,
    /// Rows that were used.
    pub rows: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// Share of right answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Its standard error, `√(p (1 - p) / rows)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_stderr: Option<f64>,
    /// Share of right answers where the log-probability of an answer is divided by its bytes, whatever `normalise` says:
    /// `acc_bytes` of lm-evaluation-harness, whose `acc_norm` divides by characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_norm: Option<f64>,
    /// Mean F1 of the classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_f1: Option<f64>,
    /// `[gold][predicted]` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Vec<Vec<usize>>>,
    /// The classes, in the order of `confusion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Share of answers that are exactly right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    /// Mean F1 over words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word_f1: Option<f64>,
    /// `exp` of the mean negative log-probability of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// `-log₂ P / bytes`, both of the tokens that were scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Tokens that were scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// The bytes that they stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// How much likelier the better reply is than the worse one, in nats, as `normalise` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// How likely the better replies are, in nats, as `normalise` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_log_prob: Option<f64>,
    /// How likely the worse replies are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_log_prob: Option<f64>,
    /// Pairs of which `max_length` cut a reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<usize>,
    /// Pairs left out because both replies are the same, from the start or once cut; `rows` are the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alike: Option<usize>,
    /// Tokens of a reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_length: Option<f64>,
    /// Share of replies that ended by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<f64>,
    /// The divergence of the model from the base beneath its adapters, in nats a reply: the mean of `log π - log π₀` over
    /// replies that were drawn at temperature 1, which estimates it without bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The same mean over replies that were drawn at another temperature: how much likelier the model finds what it said
    /// than its base does. No divergence, and it may be negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_ratio: Option<f64>,
    /// The mean of each reward.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewards: BTreeMap<String, f64>,
    /// The mean of the rewards' weighted sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// Replies that a reward could not score: the means are of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unscored: Option<usize>,
    /// How often a reply earns more than its row's own answer; an equal one counts half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub win_rate: Option<f64>,
}

impl Report {
    /// Reads what `finetune evaluate --json` wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|source| Error::Report {
            path: path.to_owned(),
            message: source.to_string(),
        })
    }
}

/// A number of a report that two reports are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Share of right answers.
    Accuracy,
    /// Share of exactly right answers.
    ExactMatch,
    /// Perplexity of texts.
    Perplexity,
    /// The rewards' weighted sum.
    Reward,
}

impl Metric {
    /// The number by which a kind of task is judged.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Perplexity => Self::Perplexity,
            Kind::Classification | Kind::MultipleChoice | Kind::Pairs => Self::Accuracy,
            Kind::ExactMatch => Self::ExactMatch,
            Kind::Replies => Self::Reward,
        }
    }

    /// Whether less is better.
    pub fn less_is_better(self) -> bool {
        self == Self::Perplexity
    }

    /// Its key in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::ExactMatch => "exact_match",
            Self::Perplexity => "perplexity",
            Self::Reward => "reward",
        }
    }
}

impl TaskReport {
    /// Of a kind of task, with nothing measured yet.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            rows: 0,
            seconds: 0.0,
            accuracy: None,
            accuracy_stderr: None,
            accuracy_norm: None,
            macro_f1: None,
            confusion: None,
            labels: None,
            exact_match: None,
            word_f1: None,
            perplexity: None,
            bits_per_byte: None,
            tokens: None,
            bytes: None,
            margin: None,
            chosen_log_prob: None,
            rejected_log_prob: None,
            cut: None,
            alike: None,
            mean_length: None,
            ended: None,
            kl: None,
            log_ratio: None,
            rewards: BTreeMap::new(),
            reward: None,
            unscored: None,
            win_rate: None,
        }
    }

    pub(crate) fn with_accuracy(kind: Kind, right: usize, rows: usize) -> Self {
        let share = right as f64 / rows.max(1) as f64;
        let stderr = (share * (1.0 - share) / rows.max(1) as f64).sqrt();
        Self {
            rows,
            accuracy: Some(share),
            accuracy_stderr: Some(stderr),
            ..Self::of(kind)
        }
    }

    /// The value of a metric, if this task has it.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Accuracy => self.accuracy,
            Metric::ExactMatch => self.exact_match,
            Metric::Perplexity => self.perplexity,
            Metric::Reward => self.reward,
        }
    }

    fn numbers(&self) -> Vec<(&'static str, String)> {
        let percent = |value: f64| format!("{:.1} %", 100.0 * value);
        let mut numbers = Vec::new();
        if let (Some(accuracy), Some(stderr)) = (self.accuracy, self.accuracy_stderr) {
            numbers.push(("accuracy", format!("{:.1} ± {:.1} %", 100.0 * accuracy, 100.0 * stderr)));
        }
        let shares = [
            ("per byte", self.accuracy_norm),
            ("macro-F1", self.macro_f1),
            ("exact", self.exact_match),
            ("word F1", self.word_f1),
        ];
        numbers.extend(
            shares
                .into_iter()
                .filter_map(|(name, value)| Some((name, percent(value?)))),
        );
        numbers.extend(self.perplexity.map(|value| ("perplexity", format!("{value:.3}"))));
        numbers.extend(self.bits_per_byte.map(|value| ("bits/byte", format!("{value:.4}"))));
        numbers.extend(self.margin.map(|value| ("margin", format!("{value:.3} nats"))));
        numbers.extend(self.reward.map(|value| ("reward", format!("{value:.4}"))));
        numbers.extend(self.unscored.map(|value| ("without a score", value.to_string())));
        numbers.extend(self.win_rate.map(|value| ("wins", percent(value))));
        numbers.extend(self.kl.map(|value| ("KL", format!("{value:.3} nats"))));
        numbers.extend(self.log_ratio.map(|value| ("log-ratio", format!("{value:.3} nats"))));
        numbers.extend(self.cut.map(|value| ("cut at `max_length`", value.to_string())));
        numbers.extend(
            self.alike
                .map(|value| ("left out with the same reply twice", value.to_string())),
        );
        numbers.extend(self.mean_length.map(|value| ("length", format!("{value:.1}"))));
        numbers
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.tasks.keys().map(|name| name.chars().count()).max().unwrap_or(0);
        for (name, task) in &self.tasks {
            let numbers: Vec<String> = task
                .numbers()
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            writeln!(
                f,
                "{name:width$}  {}  ({} rows, {:.1} s)",
                numbers.join(", "),
                task.rows,
                task.seconds
            )?;
        }
        Ok(())
    }
}
