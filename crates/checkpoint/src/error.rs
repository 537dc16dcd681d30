//! What can go wrong with files: each variant names the place, what was wanted and what was found.

use std::io;
use std::path::{Path, PathBuf};

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of whoever makes a tensor that is to be saved.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("`{}`: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as `read`.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The disk has no room for what is to be written; what was there before is untouched.
    #[error("`{}`: the disk is full: {needed} bytes were to be written\nhint: free some space or save elsewhere; nothing that existed before was changed", path.display())]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// Its whole size in bytes.
        needed: u64,
    },
    /// A file is no valid JSON, or not of the form it must have.
    #[error("`{}`: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// A file breaks its format: cut short, or a header that lies.
    #[error("`{}`: broken {format}: {at}: wanted {wanted}, found {found}\nhint: the file is damaged or its copy was cut short; fetch it again", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The format, such as `safetensors file`.
        format: &'static str,
        /// The place in it.
        at: String,
        /// What would be right.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// A file says something this program does not do.
    #[error("`{}`: {what} is not supported\nhint: {hint}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key with its value, or the feature.
        what: String,
        /// What is supported, or what to do.
        hint: String,
    },
    /// A GGUF file is broken, or says something that is not read.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A key of a configuration is missing or has a value of the wrong form.
    #[error("`{}`: `{key}`: wanted {wanted}, found {found}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, dotted.
        key: String,
        /// What would be right.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// A key of a JSON file has a value of the wrong form, and it is known where.
    #[error("`{}` line {line}: `{key}`: wanted {wanted}, found {found}", path.display())]
    KeyAt {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, dotted.
        key: String,
        /// What would be right.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// A file that must be there is not.
    #[error("`{}`: {what} is missing\nhint: {hint}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// The file or files.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A tensor that must be there is not.
    #[error("`{}`: tensor `{name}` is missing{}", path.display(), nearest(near.as_ref()))]
    NoTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// A name like it that is there.
        near: Option<String>,
    },
    /// A tensor has another shape than the configuration gives it.
    #[error("`{}`: tensor `{name}`: wanted shape {wanted:?}, found {found:?}\nhint: the weights and the configuration beside them belong to different models", path.display())]
    Shape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that fits.
        wanted: Vec<i64>,
        /// The shape that is there.
        found: Vec<i64>,
    },
    /// Numbers that are none.
    #[error("{place}: {} of {numbers} numbers are not finite ({nan} NaN, {infinite} infinite)\nhint: {hint}", nan + infinite)]
    NotFinite {
        /// The file and the tensor.
        place: String,
        /// How many are NaN.
        nan: i64,
        /// How many are infinite.
        infinite: i64,
        /// Of how many.
        numbers: i64,
        /// What to do.
        hint: String,
    },
    /// The place to be written to is taken.
    #[error("`{}`: {found} is there already\nhint: choose another folder, or remove it first", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// No model of that name, path or hub id.
    #[error(transparent)]
    NotFound(#[from] store::NotFound),
    /// Whoever makes a tensor that is to be saved failed.
    #[error("tensor `{name}` could not be made: {source}")]
    Source {
        /// The tensor.
        name: String,
        /// Why not.
        source: BoxError,
    },
    /// libtorch refused.
    #[error(transparent)]
    Torch(#[from] tensor_core::Error),
}

impl Error {
    /// An [`Error::Io`], for `map_err`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// An error of writing a file of `needed` bytes, for `map_err`.
    pub(crate) fn write(path: &Path, needed: u64) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::DiskFull {
                path: path.clone(),
                needed,
            },
            _ => Self::Io {
                path: path.clone(),
                action: "write",
                source,
            },
        }
    }

    /// An error of putting `needed` bytes at `path`, for `map_err`.
    pub(crate) fn staged(path: &Path, needed: u64) -> impl Fn(staging::Error) -> Self {
        let whole = path.to_owned();
        move |error| match error {
            staging::Error::Io { path, action, source } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Self::write(&path, needed)(source)
                }
                _ => Self::Io { path, action, source },
            },
            other => Self::Exists {
                path: whole.clone(),
                found: other.to_string(),
            },
        }
    }

    /// An [`Error::Key`] with the line of its key in `text`, for `map_err`; every other error as it is.
    pub(crate) fn in_text(self, text: &[u8]) -> Self {
        let Self::Key {
            path,
            key,
            wanted,
            found,
        } = self
        else {
            return self;
        };
        let parts: Vec<&str> = key.split('.').collect();
        // The keys of one part of a file are read as if they were the whole of it.
        let nested = [&["text_config"][..], &parts[..]].concat();
        match python_json::line_of(text, &parts).or_else(|| python_json::line_of(text, &nested)) {
            Some(line) => Self::KeyAt {
                path,
                line,
                key,
                wanted,
                found,
            },
            None => Self::Key {
                path,
                key,
                wanted,
                found,
            },
        }
    }

    /// An [`Error::Json`], for `map_err`.
    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Json { path, source }
    }
}

fn nearest(near: Option<&String>) -> String {
    near.map_or(String::new(), |near| {
        format!("\nhint: the nearest name there is `{near}`")
    })
}
