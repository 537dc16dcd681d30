//! What can go wrong at the edges: paths, shapes, libtorch.

use std::path::PathBuf;

use crate::ModulePath;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What stood where a plain dense matrix was wanted, for [`crate::Projection::into_dense`].
#[derive(Debug)]
pub struct Found(pub &'static str);

/// The crate's error. A variant is a situation; its message says place, wanted and found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slot holds something that cannot be adapted as asked.
    #[error("`{at}`: wanted a plain weight, found {found}\nhint: {hint}")]
    NotDense {
        /// The slot.
        at: ModulePath,
        /// What it holds.
        found: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A tensor has another shape than its place allows.
    #[error("`{at}`: wanted shape {wanted:?}, found {found:?}")]
    Shape {
        /// The parameter or slot.
        at: ModulePath,
        /// The shape that fits.
        wanted: Vec<i64>,
        /// The shape that came.
        found: Vec<i64>,
    },
    /// Targets that match no module.
    #[error("{what} matches no module of this model\nhint: {hint}")]
    NoMatch {
        /// The option with its value, such as ``target_modules = ["q_prj"]``.
        what: String,
        /// The nearest names there are.
        hint: String,
    },
    /// A pattern that is no regular expression.
    #[error("{what}: not a regular expression: {source}")]
    Pattern {
        /// The option with its value.
        what: String,
        /// What is wrong with it.
        source: Box<fancy_regex::Error>,
    },
    /// A method refused what it met at a slot.
    #[error("{}", placed(at, source.as_ref()))]
    Surgery {
        /// The slot.
        at: ModulePath,
        /// The method's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(String),
    /// A folder that cannot hold paged tensors.
    #[error("paged tensors in `{folder}`: {source}\nhint: wanted a folder on a disk with room for them", folder = folder.display())]
    Paging {
        /// Where their files were to lie.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A device that this machine or this libtorch does not have.
    #[error("device `{wanted}` cannot be used: {found}\nhint: {hint}")]
    Device {
        /// What was asked for.
        wanted: String,
        /// What is the matter.
        found: String,
        /// What to do.
        hint: &'static str,
    },
}

/// The message with its place in front, unless it begins with it already.
fn placed(at: &ModulePath, source: &(dyn std::error::Error + Send + Sync)) -> String {
    let (place, message) = (format!("`{at}`: "), source.to_string());
    if message.starts_with(&place) {
        message
    } else {
        place + &message
    }
}
