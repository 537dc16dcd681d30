//! What can go wrong: options, and models that cannot be split.

use tensor_core::ModulePath;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error. A variant is a situation; its message says place, wanted and found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that cannot be, is missing, or would be ignored.
    #[error("`{option}`: {found}\nhint: {hint}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is the matter with it.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A parameter that belongs to no layer and is neither embedding, head nor norm, or is no weight of the base.
    #[error("`{at}`: wanted a weight that can be grouped with others, found {found}\nhint: {hint}")]
    Ungrouped {
        /// The parameter.
        at: ModulePath,
        /// What it is.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A pattern that is no regular expression.
    #[error("`{pattern}` in `unfrozen_parameters` is no regular expression: {source}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// A pattern that is found in no path.
    #[error("`{pattern}` in `unfrozen_parameters` matches no parameter\nhint: the first one is `{example}`")]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// A path of this model.
        example: String,
    },
    /// Two tensors that should be one in two states.
    #[error("`{at}`: wanted shape {wanted:?} as in the tuned model, found {found:?} in the base")]
    Shape {
        /// The tensor.
        at: ModulePath,
        /// The tuned model's shape.
        wanted: Vec<i64>,
        /// The base's shape.
        found: Vec<i64>,
    },
}
