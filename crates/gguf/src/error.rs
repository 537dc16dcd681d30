//! What can go wrong with a GGUF file: each variant names the place, what was wanted and what was found.

use std::path::PathBuf;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file breaks its format: cut short, or a header that lies.
    #[error("`{}`: broken GGUF file: {at}: wanted {wanted}, found {found}\nhint: the file is damaged or its copy was cut short; fetch it again", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The place in it.
        at: String,
        /// What would be right.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// The file says something that is not read.
    #[error("`{}`: {what} is not supported\nhint: {hint}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key with its value, or the feature.
        what: String,
        /// What is supported, or what to do.
        hint: String,
    },
    /// A key of the metadata is missing or has a value of the wrong form.
    #[error("`{}`: `{key}`: wanted {wanted}, found {found}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would be right.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// There is no tensor of this name.
    #[error("`{}`: no tensor `{name}`", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}
