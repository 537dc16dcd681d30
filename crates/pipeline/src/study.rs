//! What a study is: a claim, the arms that test it, the columns of its table, and what would confirm it.

use crate::claim::{Claims, OfCell};
use crate::expression;
use crate::results::{Measures, Results};
use anyhow::Result;
use std::fmt;

/// A claim of a paper and how it is put to the test.
#[derive(Clone, Debug)]
pub(crate) struct Study {
    /// Its file's.
    pub(crate) name: String,
    /// One line.
    pub(crate) title: String,
    /// What the paper says, with its source, and what this miniature leaves out.
    pub(crate) claim: String,
    /// Models and data by name.
    pub(crate) fetch: Vec<String>,
    /// Whether `{data}` are the rows of the house's studies; else it is the file's own folder.
    pub(crate) rows_of_studies: bool,
    /// In the table's order.
    pub(crate) arms: Vec<Arm>,
    /// In the table's order.
    pub(crate) columns: Vec<Column>,
    /// The measure that is drawn, an arm a bar.
    pub(crate) drawn: String,
    /// Measures of a cell that are made of its others: name and expression.
    pub(crate) derived: Vec<(String, String)>,
    /// Each part of the claim.
    pub(crate) claims: Claims,
}

impl Study {
    /// Each part of the claim, held against the results.
    pub(crate) fn verdicts(&self, results: &Results) -> Result<Vec<Verdict>> {
        self.claims.verdicts(&self.arms, results)
    }

    /// Adds to a cell's measures those that are made of them. What was not measured makes nothing.
    pub(crate) fn derive(&self, measures: &mut Measures) -> Result<()> {
        for (key, value) in &self.derived {
            let number = expression::number(value, &OfCell(measures))?;
            if !number.is_nan() {
                measures.insert(key.clone(), number);
            }
        }
        Ok(())
    }
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
    Train { name: String, recipe: String },
    /// Any other verb.
    Run { arguments: Vec<String> },
    /// `finetune moa` with this configuration on the first `count` rows of a file. Measures, means over the questions:
    /// `NAME.distinct_2`, `NAME.copied_2` (of the proposal that was copied most), `NAME.tokens`, `NAME.failures`.
    Ask {
        name: String,
        config: String,
        rows: String,
        count: usize,
    },
    /// Numbers that an earlier step wrote into a JSON file: `NAME.KEY.KEY`.
    Numbers { name: String, file: String },
    /// `finetune evaluate`, with the arguments that name the model. Measures: `NAME.TASK.METRIC`.
    Evaluate {
        name: String,
        model: Vec<String>,
        suite: String,
    },
}

/// One column of the table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// The measure.
    pub(crate) key: String,
    /// Its heading.
    pub(crate) heading: String,
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
    #[cfg(test)]
    pub(crate) fn new(name: impl Into<String>, steps: Vec<Step>) -> Self {
        Self {
            name: name.into(),
            steps,
            has_chance: true,
        }
    }
}

#[cfg(test)]
impl Step {
    /// `finetune evaluate --model MODEL [--adapter ADAPTER]`.
    pub(crate) fn evaluate(name: &str, model: &str, adapter: Option<&str>, suite: &str) -> Self {
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
