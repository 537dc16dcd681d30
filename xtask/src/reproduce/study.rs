//! What a study is: a claim, the arms that test it, the columns of its table, and what would confirm it.

use super::results::Results;
use std::fmt;

/// A claim of a paper and how it is put to the test.
pub(crate) struct Study {
    /// What `cargo xtask reproduce` calls it.
    pub(crate) name: &'static str,
    /// One line.
    pub(crate) title: &'static str,
    /// What the paper says, with its source, and what this miniature leaves out.
    pub(crate) claim: &'static str,
    /// In the table's order.
    pub(crate) arms: Vec<Arm>,
    /// In the table's order.
    pub(crate) columns: Vec<Column>,
    /// The measure that is drawn, an arm a bar.
    pub(crate) drawn: &'static str,
    /// Each part of the claim, held against the results.
    pub(crate) verdicts: fn(&Results) -> Vec<Verdict>,
}

/// One row of the table: commands that are run for each seed.
#[derive(Clone, Debug)]
pub(crate) struct Arm {
    /// Its name, and its folder's.
    pub(crate) name: String,
    /// What is run, in order. `{out}` is the cell's folder, `{study}` that of all cells, `{data}` the rows, `{seed}` the seed.
    pub(crate) steps: Vec<Step>,
    /// Whether a seed changes anything; otherwise it is run once.
    pub(crate) has_chance: bool,
}

/// One command.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// `finetune train` on this recipe, into the folder `{out}/NAME`. Measures: `NAME.tokens_per_second`,
    /// `NAME.rollout_tokens_per_second`, `NAME.peak_memory`, `NAME.minutes`, `NAME.loss` (the mean of the last tenth of the steps).
    Train { name: &'static str, recipe: String },
    /// Any other verb.
    Run { arguments: Vec<String> },
    /// `finetune moa` with this configuration on the first `count` rows of a file. Measures, means over the questions:
    /// `NAME.distinct_2`, `NAME.copied_2` (of the proposal that was copied most), `NAME.tokens`, `NAME.failures`.
    Ask {
        name: &'static str,
        config: String,
        rows: String,
        count: usize,
    },
    /// Numbers that an earlier step wrote into a JSON file: `NAME.KEY.KEY`.
    Numbers { name: &'static str, file: String },
    /// `finetune evaluate`, with the arguments that name the model. Measures: `NAME.TASK.METRIC`.
    Evaluate {
        name: String,
        model: Vec<String>,
        suite: String,
    },
}

/// One column of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// The measure.
    pub(crate) key: &'static str,
    /// Its heading.
    pub(crate) heading: &'static str,
    /// How it is written.
    pub(crate) form: Form,
}

/// How a number is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// A share, as per cent.
    Share,
    /// With this many digits after the point.
    Digits(usize),
    /// Bytes, as GB.
    Gigabytes,
}

/// Whether a part of the claim holds here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// In words, with the numbers.
    pub(crate) statement: String,
    pub(crate) holds: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.holds { "holds" } else { "does not hold here" };
        write!(f, "{word}: {}", self.statement)
    }
}

impl Arm {
    pub(crate) fn new(name: impl Into<String>, steps: Vec<Step>) -> Self {
        Self {
            name: name.into(),
            steps,
            has_chance: true,
        }
    }

    /// Run once, whatever the seeds.
    pub(crate) fn without_chance(self) -> Self {
        Self {
            has_chance: false,
            ..self
        }
    }
}

impl Step {
    /// `finetune evaluate --model MODEL [--adapter ADAPTER]`.
    pub(crate) fn evaluate(name: &str, model: &str, adapter: Option<&str>, suite: &'static str) -> Self {
        let mut arguments = vec!["--model".to_owned(), model.to_owned()];
        arguments.extend(
            adapter
                .into_iter()
                .flat_map(|adapter| ["--adapter".to_owned(), adapter.to_owned()]),
        );
        Self::Evaluate {
            name: name.to_owned(),
            model: arguments,
            suite: suite.to_owned(),
        }
    }

    /// The numbers of a JSON file.
    pub(crate) fn numbers(name: &'static str, file: &str) -> Self {
        Self::Numbers {
            name,
            file: file.to_owned(),
        }
    }

    /// Any other verb, word by word.
    pub(crate) fn run(line: &str) -> Self {
        Self::Run {
            arguments: line.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

impl Form {
    /// The unit in which the table shows it, and by what a number is multiplied for it.
    pub(crate) fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Share => ("%", 100.0),
            Self::Digits(_) => ("", 1.0),
            Self::Gigabytes => ("GB", 1e-9),
        }
    }

    /// A number as the table shows it.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Share => format!("{:.1} %", 100.0 * value),
            Self::Digits(digits) => format!("{value:.digits$}"),
            Self::Gigabytes => format!("{:.2} GB", value / 1e9),
        }
    }
}
