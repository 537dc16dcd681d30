//! What can go wrong: options that cannot be, and models that are no reference.

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error. A variant is a situation; its message says place, wanted and found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option outside its range.
    #[error("`{option}`: wanted {wanted}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// What could be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// An option that nothing would ask for.
    #[error("`{option}`: it has no effect on {found}\nhint: {hint}")]
    NoEffect {
        /// The option.
        option: &'static str,
        /// What was asked for beside it.
        found: String,
        /// What to do.
        hint: &'static str,
    },
}
