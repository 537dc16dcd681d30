//! JSON lines, and JSON files with an array of objects or `{"data": […]}`.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::{Raw, not_utf8, utf8, without_mark};
use crate::error::Unit;
use crate::message::brief;
use crate::{Error, Place};

/// One object a line; empty lines are left out.
pub(super) fn lines(path: &Path, bytes: &[u8]) -> Result<Raw, Error> {
    let bytes = without_mark(bytes);
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let rows: Vec<Option<(usize, Map<String, Value>)>> = lines
        .par_iter()
        .enumerate()
        .map(|(i, line)| {
            let at = || Place::line(path, i + 1);
            if line.iter().all(u8::is_ascii_whitespace) {
                return Ok(None);
            }
            let text = str::from_utf8(line).map_err(|error| not_utf8(at(), error))?;
            match serde_json::from_str(text) {
                Ok(Value::Object(row)) => Ok(Some((i + 1, row))),
                Ok(other) => Err(Error::Malformed {
                    at: at(),
                    wanted: "a JSON object",
                    found: brief(&other),
                }),
                Err(error) => Err(Error::Malformed {
                    at: at(),
                    wanted: "a JSON object",
                    found: format!("{} at column {}", reason(&error), error.column()),
                }),
            }
        })
        .collect::<Result<_, Error>>()?;
    Ok(Raw {
        unit: Unit::Line,
        rows: rows.into_iter().flatten().collect(),
    })
}

/// A whole document; one that begins with a complete object on its first line and goes on is read as JSON lines.
pub(super) fn document(path: &Path, bytes: &[u8]) -> Result<Raw, Error> {
    let text = utf8(path, bytes)?;
    let found = match serde_json::from_str(text) {
        Ok(Value::Array(items)) => items,
        Ok(Value::Object(mut object)) => match object.shift_remove("data") {
            Some(Value::Array(items)) => items,
            Some(other) => {
                object.insert("data".to_owned(), other);
                vec![Value::Object(object)]
            }
            None => vec![Value::Object(object)],
        },
        Ok(other) => {
            return Err(Error::Malformed {
                at: Place::file(path),
                wanted: "a list of objects or {\"data\": […]}",
                found: brief(&other),
            });
        }
        Err(error) => {
            let first = text.lines().next().unwrap_or_default();
            if matches!(serde_json::from_str(first), Ok(Value::Object(_))) {
                return lines(path, bytes);
            }
            return Err(Error::Malformed {
                at: Place::line(path, error.line()),
                wanted: "JSON",
                found: format!("{} at column {}", reason(&error), error.column()),
            });
        }
    };
    let rows = found.into_iter().enumerate().map(|(i, item)| match item {
        Value::Object(row) => Ok((i + 1, row)),
        other => Err(Error::Malformed {
            at: Place {
                path: path.into(),
                number: Some((Unit::Row, i + 1)),
            },
            wanted: "an object",
            found: brief(&other),
        }),
    });
    Ok(Raw {
        unit: Unit::Row,
        rows: rows.collect::<Result<_, _>>()?,
    })
}

/// The parser's message without its own idea of the line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
