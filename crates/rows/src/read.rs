//! Data files as JSON objects, one a row, each with the line or row it came from.

mod csv;
mod json;
mod kind;
mod parquet;
pub(crate) mod strict;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Unit;
use crate::{Error, Place, Shape, cells, columns, error};

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// A row as an object, and where it stands.
pub type Placed = (Place, Map<String, Value>);

/// The raw rows of a file.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) unit: Unit,
    pub(crate) rows: Vec<(usize, Map<String, Value>)>,
}

/// A file's rows as objects, each with its place, before a shape is recognised; columns have the names of
/// [`ReadConfig::columns`], and cells of tables that hold turns are decoded.
pub fn objects(path: &Path, config: &ReadConfig) -> Result<Vec<Placed>, Error> {
    let bytes = fs::read(path).map_err(error::io(path))?;
    let raw = parse(path, &bytes, config)?;
    let path: Arc<Path> = path.into();
    let placed = raw.rows.into_iter().map(|(number, row)| {
        let place = Place {
            path: path.clone(),
            number: Some((raw.unit, number)),
        };
        (place, row)
    });
    Ok(placed.collect())
}

pub(crate) fn parse(path: &Path, bytes: &[u8], config: &ReadConfig) -> Result<Raw, Error> {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
        .to_lowercase();
    let is_text = extension != "parquet";
    if is_text && let Some(error) = kind::not_text(path, bytes) {
        return Err(error);
    }
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
    rename(path, &mut raw, config)?;
    if matches!(extension.as_str(), "csv" | "tsv" | "parquet") {
        raw.rows.iter_mut().for_each(|(_, row)| cells::decode(row));
    }
    Ok(raw)
}

/// Gives columns the names that `columns` wants, all at once, so that two may change places.
fn rename(path: &Path, raw: &mut Raw, config: &ReadConfig) -> Result<(), Error> {
    for (wanted, named) in &config.columns {
        let there = |name: &String| raw.rows.iter().any(|(_, row)| row.contains_key(name));
        // What is mapped for several files may have its right name in this one.
        if !there(named) && !there(wanted) {
            let mut names: Vec<String> = Vec::new();
            for (_, row) in raw.rows.iter().take(100) {
                names.extend(
                    row.keys()
                        .filter(|key| !names.contains(key))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
            }
            return Err(Error::Columns {
                path: path.to_path_buf(),
                wanted: format!("a column of the file for `{wanted}`: one of {}", error::quoted(&names)),
                found: format!("`{named}`"),
                hint: "write the name as the file has it".to_owned(),
            });
        }
    }
    for (_, row) in &mut raw.rows {
        let taken = config
            .columns
            .iter()
            .map(|(wanted, named)| (wanted, row.get(named).cloned()));
        let taken: Vec<(&String, Value)> = taken.filter_map(|(wanted, value)| Some((wanted, value?))).collect();
        if taken.is_empty() {
            continue;
        }
        row.retain(|key, _| !config.columns.values().any(|named| named == key));
        row.extend(taken.into_iter().map(|(wanted, value)| (wanted.clone(), value)));
    }
    Ok(())
}

/// Refuses `columns` that map to a name which rows of this shape do not read.
pub(crate) fn check_columns(path: &Path, config: &ReadConfig, shape: Shape) -> Result<(), Error> {
    let unread = config
        .columns
        .iter()
        .find(|(wanted, _)| !columns::is_read_somewhere(shape, wanted) && !config.keep.contains(wanted));
    match unread {
        None => Ok(()),
        Some((wanted, named)) => Err(Error::Columns {
            path: path.to_path_buf(),
            wanted: format!("a name that rows of shape `{}` read", shape.name()),
            found: format!("{wanted} = \"{named}\""),
            hint: format!(
                "this shape reads {}; the other shapes' columns are {}",
                shape
                    .keys()
                    .iter()
                    .map(|key| format!("`{key}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
                Shape::listing()
            ),
        }),
    }
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
    Error::Unreadable {
        at,
        wanted: "UTF-8 text",
        found: format!("invalid UTF-8 after {} bytes", error.valid_up_to()),
        hint: "convert the file to UTF-8, e.g. iconv -f WINDOWS-1252 -t UTF-8",
    }
}
