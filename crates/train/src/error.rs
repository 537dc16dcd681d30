//! What can stop a run: settings, data, numbers, disks.

use std::path::PathBuf;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a caller's hook or data set, whatever it is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The crate's error. A variant is a situation; its message says place, wanted and found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be.
    #[error("`train.{option}`: wanted {wanted}, found `{found}`")]
    Setting {
        /// The option.
        option: &'static str,
        /// What would do.
        wanted: String,
        /// What stands there.
        found: String,
    },
    /// A setting that would be ignored beside another.
    #[error("`train.{option}` has no effect: {why}\nhint: {hint}")]
    NoEffect {
        /// The option.
        option: &'static str,
        /// What makes it idle.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// A model of which nothing trains.
    #[error(
        "no parameter of the model trains\nhint: add an adapter, or choose what to train with a full fine-tuning surgery"
    )]
    NothingTrains,
    /// Optimiser states that have no place.
    #[error(transparent)]
    States(#[from] tensor_core::Error),
    /// Rows that train besides the parameters could not do what was asked.
    #[error("a memory could not {what}")]
    Sparse {
        /// What.
        what: &'static str,
        /// Why not.
        source: BoxError,
    },
    /// A data set without a step.
    #[error("the training data make no step: wanted at least one row")]
    NoData,
    /// What the step learns from could not be read or made.
    #[error("step {step}: {source}")]
    Rows {
        /// The optimiser step, from 1.
        step: usize,
        /// Why.
        source: BoxError,
    },
    /// Nothing in a step counts.
    #[error("step {step}: its {num_rows} rows weigh {weight}: wanted at least one trained token")]
    NoWeight {
        /// The optimiser step, from 1.
        step: usize,
        /// How many rows there are.
        num_rows: usize,
        /// What they weigh together.
        weight: f64,
    },
    /// A loss that is no number.
    #[error(
        "step {step}, row {row}: the loss is {loss}; {place}\nhint: the model was not changed by this step; {saved}; try a lower learning rate, `dtype = \"f32\"` or `max_grad_norm`"
    )]
    LossNotFinite {
        /// The optimiser step, from 1.
        step: usize,
        /// The row of the step, from 1.
        row: usize,
        /// The loss.
        loss: f64,
        /// Which block made it.
        place: String,
        /// What is on disk.
        saved: String,
    },
    /// A gradient that is no number.
    #[error(
        "step {step}: the gradient of `{parameter}` is not finite\nhint: the model was not changed by this step; {saved}; try a lower learning rate or `dtype = \"f32\"`"
    )]
    GradientNotFinite {
        /// The optimiser step, from 1.
        step: usize,
        /// The first parameter concerned.
        parameter: String,
        /// What is on disk.
        saved: String,
    },
    /// Parameters that train but that no gradient reaches.
    #[error(
        "after step {step}: no gradient ever reached {num} of {of} trainable parameters: {names}\nhint: the model's forward pass does not use them, or cuts the graph"
    )]
    NoGradient {
        /// The optimiser step, from 1.
        step: usize,
        /// How many there are.
        num: usize,
        /// Of how many.
        of: usize,
        /// The first few of them.
        names: String,
    },
    /// The objective or the model failed.
    #[error("step {step}: {source}")]
    Step {
        /// The optimiser step, from 1.
        step: usize,
        /// Why.
        source: tensor_core::Error,
    },
    /// The caller's evaluation failed.
    #[error("step {step}: the evaluation failed: {source}")]
    Evaluation {
        /// The optimiser step, from 1.
        step: usize,
        /// Why.
        source: BoxError,
    },
    /// The metric that chooses the best checkpoint is not among the evaluation's.
    #[error("`train.metric_for_best_model`: wanted one of {found}, found `{wanted}`")]
    NoMetric {
        /// The metric asked for.
        wanted: String,
        /// Those there are.
        found: String,
    },
    /// A file or folder that cannot be read or written.
    #[error("`{path}`: cannot {what}: {source}{}", room(source))]
    File {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Files that could not be put into place.
    #[error(transparent)]
    Staging(staging::Error),
    /// A checkpoint that could not be saved.
    #[error(
        "step {step}: checkpoint `{path}` cannot be saved: {source}\nhint: make room or change `train.output_dir`; {saved}"
    )]
    Save {
        /// The optimiser step.
        step: usize,
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        source: BoxError,
        /// What is on disk already.
        saved: String,
    },
    /// The final model could not be written.
    #[error("`{path}`: the trained model cannot be saved: {source}\nhint: {saved}")]
    Publish {
        /// The output folder.
        path: PathBuf,
        /// Why.
        source: BoxError,
        /// What is on disk already.
        saved: String,
    },
    /// A checkpoint's file that is not what it should be.
    #[error("`{path}`: {wanted}, found {found}\nhint: {hint}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What was wanted.
        wanted: String,
        /// What is there.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// The output folder holds another run.
    #[error("`{path}` already holds {found}\nhint: {hint}")]
    Occupied {
        /// The output folder.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A picture could not be drawn.
    #[error("the curve of `{metric}` cannot be drawn: {reason}")]
    Chart {
        /// What it shows.
        metric: String,
        /// Why not.
        reason: String,
    },
}

impl From<staging::Error> for Error {
    fn from(error: staging::Error) -> Self {
        match error {
            staging::Error::Io {
                path,
                action: what,
                source,
            } => Self::File { path, what, source },
            other => Self::Staging(other),
        }
    }
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>, what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, what, source }
    }
}

/// What to do where a disk is full.
fn room(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match source.kind() {
        FileTooLarge | QuotaExceeded | StorageFull => {
            "\nhint: make room on the disk; checkpoints that were saved before are whole"
        }
        _ => "",
    }
}
