//! Comma- or tab-separated tables with a header line; every value is a string, an empty one counts as absent.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Raw, without_mark};
use crate::error::Unit;
use crate::{Error, Place};

pub(super) fn table(path: &Path, bytes: &[u8], delimiter: u8) -> Result<Raw, Error> {
    let bytes = without_mark(bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let header = reader.headers().map_err(|error| failed(path, &error))?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| failed(path, &error))?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let row: Map<String, Value> = header
            .iter()
            .zip(&record)
            .map(|(name, value)| {
                (
                    name.to_owned(),
                    if value.is_empty() { Value::Null } else { value.into() },
                )
            })
            .collect();
        rows.push((line, row));
    }
    Ok(Raw { unit: Unit::Line, rows })
}

fn failed(path: &Path, error: &csv::Error) -> Error {
    let at = error
        .position()
        .map_or_else(|| Place::file(path), |at| Place::line(path, at.line() as usize));
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => Error::Malformed {
            at,
            wanted: "as many fields as the header has",
            found: format!("{len} fields under a header of {expected_len}"),
        },
        csv::ErrorKind::Utf8 { err, .. } => Error::Malformed {
            at,
            wanted: "UTF-8 text",
            found: err.to_string(),
        },
        _ => Error::Malformed {
            at,
            wanted: "a CSV table",
            found: error.to_string(),
        },
    }
}
