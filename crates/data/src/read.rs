//! Data files as JSON objects, one a row, each with the line or row it came from.

mod csv;
mod json;
mod parquet;
mod text;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Unit;
use crate::{Error, Place, Shape};

/// How a data file is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadConfig {
    /// The rows' shape, where their keys fit several.
    pub shape: Option<Shape>,
    /// Columns under other names: wanted name to the file's name.
    pub columns: BTreeMap<String, String>,
    /// What a row of a plain text file is.
    pub sample_by: SampleBy,
    /// Columns that are kept beside their rows as they stand, for [`crate::Dataset::kept`].
    #[serde(skip)]
    pub keep: Vec<String>,
}

/// What a row of a `.txt` file is; empty ones are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleBy {
    /// Each line.
    #[default]
    Line,
    /// Lines up to an empty one.
    Paragraph,
    /// The whole file.
    Document,
}

/// The raw rows of a file.
pub(crate) struct Raw {
    pub(crate) unit: Unit,
    pub(crate) rows: Vec<(usize, Map<String, Value>)>,
}

pub(crate) fn parse(path: &Path, bytes: &[u8], config: &ReadConfig) -> Result<Raw, Error> {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
        .to_lowercase();
    let mut raw = match extension.as_str() {
        "jsonl" | "ndjson" => json::lines(path, bytes)?,
        "json" => json::document(path, bytes)?,
        "csv" => csv::table(path, bytes, b',')?,
        "tsv" => csv::table(path, bytes, b'\t')?,
        "parquet" => parquet::table(path, bytes)?,
        "txt" => text::samples(path, bytes, config.sample_by)?,
        _ => {
            return Err(Error::Extension {
                path: path.to_path_buf(),
                extension,
            });
        }
    };
    if raw.rows.is_empty() {
        return Err(Error::NoRows {
            path: path.to_path_buf(),
        });
    }
    for (_, row) in &mut raw.rows {
        for (wanted, named) in &config.columns {
            if let Some(value) = row.shift_remove(named) {
                row.insert(wanted.clone(), value);
            }
        }
    }
    Ok(raw)
}

/// The text of a file without its byte-order mark.
fn utf8<'b>(path: &Path, bytes: &'b [u8]) -> Result<&'b str, Error> {
    let bytes = without_mark(bytes);
    str::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        not_utf8(Place::line(path, valid.matches('\n').count() + 1), error)
    })
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

fn not_utf8(at: Place, error: std::str::Utf8Error) -> Error {
    Error::Malformed {
        at,
        wanted: "UTF-8 text",
        found: format!("invalid UTF-8 after {} bytes", error.valid_up_to()),
    }
}
