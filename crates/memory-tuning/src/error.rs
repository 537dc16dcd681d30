//! What can go wrong when memories are put in, read or written.

use std::io;
use std::path::{Path, PathBuf};

use tensor_core::ModulePath;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that cannot work.
    #[error("`{option}`: {found}\nhint: {hint}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What was given.
        found: String,
        /// What to do.
        hint: String,
    },
    /// A memory was asked for where one is already.
    #[error("`{at}`: there is a memory already\nhint: continue training it, or start from the base model")]
    Second {
        /// The module.
        at: ModulePath,
    },
    /// A file could not be made, read or mapped.
    #[error("`{}`: cannot {what} it: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file of a memory is not what its index says.
    #[error("`{}`: wanted {wanted}, found {found}\nhint: {hint}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the index says.
        wanted: String,
        /// What there is.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A tensor of a memory does not fit the matrix that it names.
    #[error(
        "`{at}`: the memory's `{tensor}` has shape {found:?}, this model needs {wanted:?}\nhint: the memory was made for another model"
    )]
    Shape {
        /// The module.
        at: ModulePath,
        /// Which tensor.
        tensor: &'static str,
        /// What the matrix needs.
        wanted: Vec<i64>,
        /// What the memory holds.
        found: Vec<i64>,
    },
    /// A memory names modules that the model does not have.
    #[error(
        "the memory belongs to {count} modules that this model does not have, such as `{first}`\nhint: the memory was made for another model"
    )]
    Unplaced {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// A merge that no weight could hold.
    #[error(
        "a memory cannot be merged: which experts answer depends on the input, so no weight matrix computes the same\n\
         hint: give it beside the model (`--model M --adapter DIR`) to every verb, or train `kind = \"lora\"`, which merges"
    )]
    NotLinear,
}

impl Error {
    /// As the error of a surgery at `at`.
    pub fn at(self, at: &ModulePath) -> tensor_core::Error {
        tensor_core::Error::Surgery {
            at: at.clone(),
            source: Box::new(self),
        }
    }

    pub(crate) fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, what, source }
    }
}
