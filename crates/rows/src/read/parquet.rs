//! Parquet tables, nested columns included, by the plain record reader.
//!
//! A column of objects has the fields of all its rows' objects, and what an object never had comes back as null. Such
//! padding is left out, so that a table's rows are those of the JSON lines that it was made of.

use std::panic::catch_unwind;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::Raw;
use crate::error::Unit;
use crate::{Error, Place};

pub(super) fn table(path: &Path, bytes: &[u8]) -> Result<Raw, Error> {
    let failed = |row: Option<usize>| {
        move |error: parquet::errors::ParquetError| Error::Malformed {
            at: Place {
                path: path.into(),
                number: row.map(|row| (Unit::Row, row)),
            },
            wanted: "a Parquet table",
            found: error.to_string(),
        }
    };
    let read = || {
        let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(bytes)).map_err(failed(None))?;
        let mut rows = Vec::new();
        for (i, row) in reader.get_row_iter(None).map_err(failed(None))?.enumerate() {
            let mut row = object(row.map_err(failed(Some(i + 1)))?);
            row.values_mut().for_each(unpad_column);
            rows.push((i + 1, row));
        }
        Ok(Raw { unit: Unit::Row, rows })
    };
    // The record reader indexes by numbers of the file; where they lie, it panics.
    catch_unwind(read).unwrap_or_else(|_| {
        Err(Error::Unreadable {
            at: Place::file(path),
            wanted: "a Parquet table",
            found: "a damaged one".to_owned(),
            hint: "write or copy the file again",
        })
    })
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns()
        .into_iter()
        .map(|(name, field)| (name, value(field)))
        .collect()
}

/// Leaves out the nulls inside a column's value. A turn's own fields stay: a null content is one that is there.
fn unpad_column(value: &mut Value) {
    match value {
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(turn) if ["role", "from"].iter().any(|key| turn.contains_key(*key)) => {
                        turn.values_mut().for_each(unpad);
                    }
                    other => unpad(other),
                }
            }
        }
        other => unpad(other),
    }
}

fn unpad(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(unpad),
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(unpad);
        }
        _ => {}
    }
}

fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(yes) => yes.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => number.to_f32().into(),
        Field::Float(number) => number.into(),
        Field::Double(number) => number.into(),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            // Whoever wants a text here is told what stands there instead.
            Err(_) => serde_json::json!({ "bytes": bytes.data().len() }),
        },
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => Value::Object(
            map.entries()
                .iter()
                .map(|(key, field)| {
                    let key = match key {
                        Field::Str(key) => key.clone(),
                        other => other.to_string(),
                    };
                    (key, value(field.clone()))
                })
                .collect(),
        ),
        other => other.to_string().into(),
    }
}
