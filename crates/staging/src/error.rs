//! What can go wrong: a system call at a path.

use std::io;
use std::path::{Path, PathBuf};

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error. A variant is a situation; its message says place, wanted and found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("`{}`: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A folder that should be new holds something.
    #[error("`{}`: a folder that is not empty is there already\nhint: choose another folder, or remove it first", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

impl From<Error> for io::Error {
    /// The system's own error, without the place.
    fn from(error: Error) -> Self {
        match error {
            Error::Io { source, .. } => source,
            Error::NotEmpty { .. } => io::ErrorKind::DirectoryNotEmpty.into(),
        }
    }
}
