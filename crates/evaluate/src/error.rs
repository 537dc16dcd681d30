//! What can go wrong: suites, rows, models.

use std::path::PathBuf;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A suite that is not one.
    #[error("`{}`: {message}", path.display())]
    Suite {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        message: String,
    },
    /// A file that is no report.
    #[error("`{}`: wanted a report that `finetune evaluate --json` wrote: {message}", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        message: String,
    },
    /// Reports that do not make a sequence.
    #[error("{what}: {found}\nhint: {hint}")]
    Sequence {
        /// The stage or report.
        what: String,
        /// What is the matter.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A task whose options do not fit.
    #[error("task `{task}`: {found}\nhint: {hint}")]
    Task {
        /// The task's name.
        task: String,
        /// What is wrong.
        found: String,
        /// What to do.
        hint: String,
    },
    /// A row that the task cannot use.
    #[error("`{}`, row {row}: wanted {wanted}, found {found}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        row: usize,
        /// What the task needs.
        wanted: String,
        /// What the row has.
        found: String,
    },
    /// A row that the tokenizer or its template refused.
    #[error("`{}`, row {row}: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        row: usize,
        /// What is wrong with it.
        source: data::Problem,
    },
    /// Reading a data file failed.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// The model refused.
    #[error(transparent)]
    Decoder(#[from] decoder::Error),
}
