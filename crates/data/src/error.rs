//! What can go wrong between a file of text and a row of tokens: where, what was wanted, what was found.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not what its name says it is.
    #[error("{at}: wanted {wanted}, found {found}")]
    Malformed {
        /// File, and line or row where known.
        at: Place,
        /// What should stand there.
        wanted: &'static str,
        /// What does.
        found: String,
    },
    /// A file whose extension names no format that is read.
    #[error(
        "`{}`: wanted a file ending in .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .txt, found `{extension}`", path.display()
    )]
    Extension {
        /// The file.
        path: PathBuf,
        /// Its extension, perhaps empty.
        extension: String,
    },
    /// A file without a single row.
    #[error("`{}`: wanted at least one row, found none", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// A row that cannot be used.
    #[error("{at}: {problem}")]
    Row {
        /// The row.
        at: Place,
        /// Why not.
        problem: Problem,
    },
    /// A tokenizer that cannot be used.
    #[error("tokenizer `{at}`: {message}")]
    Tokenizer {
        /// Its file or name.
        at: String,
        /// Why not.
        message: String,
    },
    /// A chat template that does not compile.
    #[error("chat template `{name}`: {message}")]
    TemplateSyntax {
        /// Its name or file.
        name: String,
        /// The template engine's message, with the line.
        message: String,
    },
    /// A setting that asks for the impossible.
    #[error("`{key}`: wanted {wanted}, found {found}")]
    Setting {
        /// The setting's name.
        key: &'static str,
        /// What it may be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
}

/// Why a single row, chat or text cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The keys are those of no known shape.
    #[error(
        "no known shape has the keys {}\n  hint: wanted one of {}; map other names with `columns`, e.g. columns = {{ prompt = \"question\" }}; a CSV file needs a header line",
        quoted(found),
        crate::Shape::listing()
    )]
    UnknownShape {
        /// The row's keys.
        found: Vec<String>,
    },
    /// The keys are those of several shapes.
    #[error("the keys fit several shapes: {}\n  hint: choose one with `shape`, e.g. shape = \"{}\"", quoted(shapes), shapes[0])]
    AmbiguousShape {
        /// Names of the shapes.
        shapes: Vec<String>,
    },
    /// A key of the file's shape is not there.
    #[error(
        "wanted the keys {} of shape `{shape}`, found {}\n  hint: all rows of a file have one shape; mend or remove the row",
        quoted(wanted),
        quoted(found)
    )]
    MissingKeys {
        /// The file's shape.
        shape: String,
        /// All its keys.
        wanted: Vec<String>,
        /// The row's keys.
        found: Vec<String>,
    },
    /// A value of the wrong kind.
    #[error("`{key}`: wanted {wanted}, found {found}")]
    WrongKind {
        /// Where in the row.
        key: String,
        /// The kind wanted.
        wanted: &'static str,
        /// What stands there, shortened.
        found: String,
    },
    /// A speaker that is not known.
    #[error("`{key}`: unknown role `{role}`; wanted one of {accepted}")]
    UnknownRole {
        /// Where in the row.
        key: String,
        /// The role found.
        role: String,
        /// The roles there are.
        accepted: &'static str,
    },
    /// An assistant turn that says and calls nothing, or an empty completion.
    #[error("{what} is empty, so there is nothing to learn from it\n  hint: drop such rows with on_empty = \"drop\"")]
    Empty {
        /// Which turn.
        what: String,
    },
    /// No token of the row would be trained.
    #[error("no token of the row is trained: {why}\n  hint: drop such rows with on_empty = \"drop\"")]
    NothingTrained {
        /// The reason.
        why: String,
    },
    /// What comes before the first trained token fills `max_length`.
    #[error(
        "the prompt has {prompt} tokens, which leaves nothing to train within max_length = {max_length}\n  hint: raise max_length, or drop such rows with on_too_long = \"drop\""
    )]
    PromptTooLong {
        /// Tokens before the first trained one.
        prompt: usize,
        /// The limit.
        max_length: usize,
    },
    /// The chat template refused the row.
    #[error("chat template `{template}`: {message}")]
    Template {
        /// The template's name.
        template: String,
        /// What it said.
        message: String,
    },
    /// A conversation, but the model has no chat template.
    #[error(
        "the row is a conversation, but the model has no chat template\n  hint: give one with chat_template = \"FILE.jinja\" or chat_template = \"chatml\""
    )]
    NoTemplate,
    /// The trained part of a conversation cannot be found in its rendering.
    #[error(
        "chat template `{template}`: cannot tell where message {message_idx} lies in the rendered text: {why}\n  hint: use a template with {{% generation %}} tags, or set assistant_only_loss = false"
    )]
    SpanNotFound {
        /// The template's name.
        template: String,
        /// Which message, from 0.
        message_idx: usize,
        /// What did not agree.
        why: String,
    },
    /// A label that is not in the list.
    #[error("label `{found}`: wanted one of {}", quoted(known))]
    UnknownLabel {
        /// The row's label.
        found: String,
        /// The labels there are.
        known: Vec<String>,
    },
    /// The tokenizer refused the text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

impl Problem {
    pub(crate) fn at(self, at: Place) -> Error {
        Error::Row { at, problem: self }
    }
}

/// A place in a data file, as an error names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, or the name of a set that came from no file.
    pub path: Arc<Path>,
    /// Which line or row, from 1; `None` for the whole file.
    pub number: Option<(Unit, usize)>,
}

/// What [`Place`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Lines of the file.
    Line,
    /// Rows of the table or items of the array.
    Row,
}

impl Place {
    pub(crate) fn file(path: &Path) -> Self {
        Self {
            path: path.into(),
            number: None,
        }
    }

    pub(crate) fn line(path: &Path, line: usize) -> Self {
        Self {
            path: path.into(),
            number: Some((Unit::Line, line)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.path.display())?;
        match self.number {
            Some((Unit::Line, line)) => write!(f, " line {line}"),
            Some((Unit::Row, row)) => write!(f, " row {row}"),
            None => Ok(()),
        }
    }
}

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<'_> {
    move |source| Error::Io {
        path: path.to_path_buf(),
        source,
    }
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
