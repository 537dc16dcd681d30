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
    /// A data file that cannot be read as rows, with what can be done about it.
    #[error("{at}: wanted {wanted}, found {found}\nhint: {hint}")]
    Unreadable {
        /// File, and line or row where known.
        at: Place,
        /// What should stand there.
        wanted: &'static str,
        /// What does.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file whose extension names no format that is read.
    #[error(
        "`{}`: wanted a file ending in .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .txt, found `{extension}`\nhint: {}", path.display(), extension_hint(extension)
    )]
    Extension {
        /// The file.
        path: PathBuf,
        /// Its extension, perhaps empty.
        extension: String,
    },
    /// `columns` names what no row has, or maps a column to a name that is not read.
    #[error("`{}`: `columns`: wanted {wanted}, found {found}\nhint: {hint}", path.display())]
    Columns {
        /// The file.
        path: PathBuf,
        /// What it may name.
        wanted: String,
        /// What it names.
        found: String,
        /// What to do.
        hint: String,
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
        "no known shape has the keys {}\nhint: wanted one of {}; map other names with `columns`, e.g. columns = {{ {} }}; a CSV file needs a header line",
        quoted(found),
        crate::Shape::listing(),
        crate::columns::suggestion(found)
    )]
    UnknownShape {
        /// The row's keys.
        found: Vec<String>,
    },
    /// The keys are those of several shapes, which do not say the same.
    #[error(
        "the keys fit several shapes, whose columns do not say the same: {}\nhint: choose one with `shape` (`data.shape` in a recipe, --shape of `inspect`), e.g. shape = \"{}\"",
        quoted(shapes),
        shapes[0]
    )]
    AmbiguousShape {
        /// Names of the shapes.
        shapes: Vec<String>,
    },
    /// A row of another shape than the file's first.
    #[error(
        "wanted a row of shape `{wanted}`, as the first row is, found one of shape `{found}`\nhint: all rows of a file have one shape: give every row the same columns, split the file, or choose with shape = \"{wanted}\""
    )]
    OtherShape {
        /// The shape of the first row.
        wanted: String,
        /// This row's.
        found: String,
    },
    /// The prompt would be taken from the replies' common beginning while a column may hold it.
    #[error(
        "wanted a `prompt` beside `chosen` and `rejected`, found none, and {} may hold it\nhint: map it, e.g. columns = {{ instruction = \"{}\" }} for the user's turn of a conversation or columns = {{ prompt = \"{}\" }} for a text that the replies continue; shape = \"implicit_preference\" takes the beginning that both replies share as the prompt",
        quoted(columns),
        named_first(columns),
        named_first(columns)
    )]
    PromptElsewhere {
        /// The columns that may hold the prompt.
        columns: Vec<String>,
    },
    /// A system prompt beside plain texts, which have no turns.
    #[error(
        "wanted a conversation for the system prompt in `{column}`, found plain texts (shape `{shape}`), which have no system turn\nhint: make conversations of the rows: {advice}; shape = \"{shape}\" reads the texts and leaves `{column}` out"
    )]
    SystemBesideText {
        /// The column of the system prompt.
        column: String,
        /// The row's shape.
        shape: String,
        /// How the row becomes a conversation.
        advice: &'static str,
    },
    /// A system prompt in a column, and another one in the turns.
    #[error(
        "`{column}` and the system turn of the conversation differ: wanted one system prompt\nhint: remove one of them"
    )]
    TwoSystems {
        /// The column.
        column: String,
    },
    /// Pictures, sounds or videos, which no model here reads.
    #[error(
        "`{key}`: wanted text, found {found}\nhint: only text is trained here; remove the row, or say in words what it shows"
    )]
    NotText {
        /// Where in the row.
        key: String,
        /// What stands there.
        found: String,
    },
    /// The chat template leaves out what the row says.
    #[error(
        "chat template `{template}` does not show {what}\nhint: use a model or a template (chat_template.jinja) that shows it, or remove it from the row"
    )]
    NotShown {
        /// The template's name.
        template: String,
        /// What is left out, and of which message.
        what: String,
    },
    /// A key of the file's shape is not there.
    #[error(
        "wanted the keys {} of shape `{shape}`, found {}\nhint: all rows of a file have one shape; mend or remove the row",
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
    #[error("{what} is empty, so there is nothing to learn from it\nhint: drop such rows with on_empty = \"drop\"")]
    Empty {
        /// Which turn.
        what: String,
    },
    /// No token of the row would be trained.
    #[error("no token of the row is trained: {why}\nhint: drop such rows with on_empty = \"drop\"")]
    NothingTrained {
        /// The reason.
        why: String,
    },
    /// What comes before the first trained token fills `max_length`.
    #[error(
        "the prompt has {prompt} tokens, which leaves nothing to train within max_length = {max_length}\nhint: raise max_length, or drop such rows with on_too_long = \"drop\""
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
        "the row is a conversation, but the model has no chat template\nhint: give one with chat_template = \"FILE.jinja\" or chat_template = \"chatml\""
    )]
    NoTemplate,
    /// The trained part of a conversation cannot be found in its rendering.
    #[error(
        "chat template `{template}`: cannot tell where message {message_idx} lies in the rendered text: {why}\nhint: use a template with {{% generation %}} tags, or set assistant_only_loss = false"
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
    /// At this place: an error of the file.
    pub fn at(self, at: Place) -> Error {
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
    /// A whole file.
    pub fn file(path: &Path) -> Self {
        Self {
            path: path.into(),
            number: None,
        }
    }

    /// A line of a file, counted from 1.
    pub fn line(path: &Path, line: usize) -> Self {
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

/// What the operating system says of `path`, as this crate's error.
pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<'_> {
    move |source| Error::Io {
        path: path.to_path_buf(),
        source,
    }
}

fn extension_hint(extension: &str) -> &'static str {
    match extension {
        "gz" | "zst" | "bz2" | "xz" | "zip" | "7z" | "lz4" => "decompress the file first",
        "arrow" | "feather" => "save the table as Parquet, e.g. `dataset.to_parquet(\"rows.parquet\")` in Python",
        "xlsx" | "xls" | "ods" => "export the sheet as CSV",
        "" => "give the file the ending of its format",
        _ => "convert the file to one of these formats, or give it the right ending",
    }
}

/// The column that most likely holds a prompt.
fn named_first(columns: &[String]) -> &str {
    let not_system = columns.iter().find(|name| !crate::columns::is_system(name));
    not_system.or(columns.first()).map_or("question", String::as_str)
}

/// Names in backticks with commas between.
pub fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
