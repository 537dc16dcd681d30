//! What can go wrong with experts.

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that cannot work.
    #[error("`{option}`: wanted {wanted}, found {found}\nhint: {hint}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its range.
        wanted: String,
        /// What was given.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// The parts of a layer do not fit each other.
    #[error(
        "{part}: wanted shape {wanted:?}, found {found:?}\nhint: the checkpoint's tensors do not fit its `config.json`"
    )]
    Shape {
        /// Which part.
        part: String,
        /// What fits.
        wanted: Vec<i64>,
        /// What came.
        found: Vec<i64>,
    },
    /// A sublayer that is no plain gated feed-forward.
    #[error(
        "wanted a gated feed-forward of `gate_proj`, `up_proj` and `down_proj` without biases, found {found}\nhint: {hint}"
    )]
    NotGated {
        /// What stands there.
        found: String,
        /// What to do.
        hint: &'static str,
    },
}
