//! Parquet tables, nested columns included, by the plain record reader.

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
    let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(bytes)).map_err(failed(None))?;
    let mut rows = Vec::new();
    for (i, row) in reader.get_row_iter(None).map_err(failed(None))?.enumerate() {
        rows.push((i + 1, object(row.map_err(failed(Some(i + 1)))?)));
    }
    Ok(Raw { unit: Unit::Row, rows })
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns()
        .into_iter()
        .map(|(name, field)| (name, value(field)))
        .collect()
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
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned().into(),
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
