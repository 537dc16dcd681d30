//! JSON lines, and JSON files with an array of objects or `{"data": […]}`.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::{Raw, not_utf8, strict, utf8, without_mark};
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
            match strict::value(text) {
                Ok(Value::Object(row)) => Ok(Some((i + 1, row))),
                Ok(other) => Err(Error::Unreadable {
                    at: at(),
                    wanted: "a JSON object",
                    found: brief(&other),
                    hint: "each line is one row: an object such as {\"text\": \"…\"}",
                }),
                Err(error) => Err(Error::Unreadable {
                    at: at(),
                    wanted: "a JSON object",
                    found: format!("{} at column {}", reason(&error), error.column()),
                    hint: hint(text, &error),
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
    let found = match strict::value(text) {
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
            if matches!(strict::value(first), Ok(Value::Object(_))) {
                return lines(path, bytes);
            }
            return Err(Error::Unreadable {
                at: Place::line(path, error.line()),
                wanted: "JSON",
                found: format!("{} at column {}", reason(&error), error.column()),
                hint: hint(text, &error),
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

/// What to do about text that is no JSON.
fn hint(text: &str, error: &serde_json::Error) -> &'static str {
    let reason = error.to_string();
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    // Columns count bytes from 1; the word that is no JSON begins at most two before.
    let before = error.column().saturating_sub(3).min(line.len());
    let near = String::from_utf8_lossy(&line.as_bytes()[before..]);
    if text.trim_end_matches(['\r', '\n']).contains('\r') && !text.contains('\n') {
        "the lines end in carriage returns alone: convert them, e.g. tr '\\r' '\\n'"
    } else if text.contains('\0') {
        "there are NUL bytes in the file, as a copy that was cut off leaves them: copy it again"
    } else if reason.contains("twice") {
        "keep one of the two values"
    } else if reason.contains("surrogate") || reason.contains("hex escape") {
        "half of a character stands there as \\uD8xx: write the whole character, or remove it"
    } else if error.is_eof() {
        "the file or the row is cut off: complete or remove it"
    } else if ["NaN", "Infinity", "nan", "inf"]
        .iter()
        .any(|word| near.trim_start_matches(['-', ' ', ':']).starts_with(word))
    {
        "NaN and Infinity are no JSON: write null"
    } else {
        "correct the row, e.g. by writing it with a JSON library"
    }
}
