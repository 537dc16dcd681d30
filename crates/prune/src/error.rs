//! What can go wrong: options, and matrices that a rule does not fit.

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
}
