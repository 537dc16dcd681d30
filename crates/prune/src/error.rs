//! What can go wrong: options, and matrices that a rule does not fit.

use tensor_core::ModulePath;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error. A variant is a situation; whoever knows the matrix's path puts it in front.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that cannot be.
    #[error("`{option}`: {found}\nhint: {hint}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is the matter with it.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A width that groups of a pattern do not fill.
    #[error(
        "wanted a number of inputs that {of} divides, found {width}\nhint: leave this matrix out, or prune it without a pattern"
    )]
    Groups {
        /// Inputs in a group.
        of: usize,
        /// Inputs of the matrix.
        width: usize,
    },
    /// A layer that is not that of a dense decoder.
    #[error(
        "layer {layer}: wanted one `{module}` with {wanted} inputs, found {found}\nhint: heads and channels can be cut from dense decoders; of a mixture of experts drop whole layers, or make the experts fewer with `finetune experts`"
    )]
    NotDense {
        /// The layer.
        layer: usize,
        /// The module's own name.
        module: &'static str,
        /// Inputs that it should have.
        wanted: usize,
        /// What is there.
        found: String,
    },
    /// Two tensors that should fit together.
    #[error("{what}: wanted shape {wanted:?}, found {found:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// The shape that fits.
        wanted: Vec<i64>,
        /// The shape that came.
        found: Vec<i64>,
    },
    /// Inputs so alike that their matrix of products has no inverse.
    #[error(
        "the inputs' matrix of products is not positive definite at a damping of {damping}\nhint: a larger damping, or more calibration tokens than the matrix has inputs"
    )]
    NotPositive {
        /// The damping.
        damping: f64,
    },
    /// A matrix that no calibration token went through.
    #[error("no calibration token went through it\nhint: more calibration text, or leave it out by `exclude_modules`")]
    Unseen,
    /// A projection whose update cannot be masked.
    #[error(
        "wanted a matrix or a plain low-rank update under the mask, found dropout, magnitudes or another wrapper\nhint: `lora_dropout = 0`, and no DoRA"
    )]
    Unmaskable,
    /// What happened at a module.
    #[error("`{at}`: {source}")]
    At {
        /// The module.
        at: ModulePath,
        /// What happened.
        source: Box<Error>,
    },
    /// The seams refused.
    #[error(transparent)]
    Core(#[from] tensor_core::Error),
    /// The model refused.
    #[error(transparent)]
    Operation(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The same error with its place.
    pub(crate) fn at(self, at: &ModulePath) -> Self {
        Self::At {
            at: at.clone(),
            source: Box::new(self),
        }
    }
}
