//! The metadata's values: numbers of every width, flags, texts, and arrays of them.

use crate::Result;
use crate::cursor::Cursor;

/// A metadata value. Whole numbers of every width are one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// A whole number that fits 64 bits with a sign.
    Integer(i64),
    /// A whole number above that.
    Unsigned(u64),
    /// A 32-bit float.
    Float32(f32),
    /// A 64-bit float.
    Float64(f64),
    /// A flag.
    Bool(bool),
    /// A text.
    String(String),
    /// Several values of one type.
    Array(Vec<MetadataValue>),
}

impl MetadataValue {
    /// The whole number, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The number; a 32-bit float as its shortest decimal, so that 1e-5 stays 1e-5.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => Some(*value as f64),
            Self::Unsigned(value) => Some(*value as f64),
            Self::Float32(value) => value.to_string().parse().ok(),
            Self::Float64(value) => Some(*value),
            _ => None,
        }
    }

    /// The flag, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The values, if there are several.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }
}

/// Arrays in arrays deeper than this are a header that lies.
const MAX_DEPTH: usize = 4;

/// Reads the type and the value under `key`.
pub(crate) fn read(at: &mut Cursor<'_>, key: &str) -> Result<MetadataValue> {
    let what = format!("metadata `{key}`");
    let kind = at.u32(&what)?;
    value(at, kind, &what, 0)
}

fn value(at: &mut Cursor<'_>, kind: u32, what: &str, depth: usize) -> Result<MetadataValue> {
    use MetadataValue::{Array, Bool, Float32, Float64, Integer, Unsigned};
    Ok(match kind {
        0 => Integer(u8::from_le_bytes(at.array(what)?).into()),
        1 => Integer(i8::from_le_bytes(at.array(what)?).into()),
        2 => Integer(u16::from_le_bytes(at.array(what)?).into()),
        3 => Integer(i16::from_le_bytes(at.array(what)?).into()),
        4 => Integer(at.u32(what)?.into()),
        5 => Integer(i32::from_le_bytes(at.array(what)?).into()),
        6 => Float32(f32::from_le_bytes(at.array(what)?)),
        7 => match at.array::<1>(what)? {
            [0] => Bool(false),
            [1] => Bool(true),
            [other] => return Err(at.broken(what, "a flag of 0 or 1", other.to_string())),
        },
        8 => MetadataValue::String(at.string(what)?),
        9 if depth < MAX_DEPTH => {
            let kind = at.u32(what)?;
            let count = at.u64(what)?;
            // Every element takes a byte at least, so a count above what is left is a lie that must not be allocated.
            if count > at.left() as u64 {
                let wanted = format!("at most {} elements", at.left());
                return Err(at.broken(what, &wanted, count.to_string()));
            }
            let mut values = Vec::with_capacity(count as usize);
            for _ in 0..count {
                values.push(value(at, kind, what, depth + 1)?);
            }
            Array(values)
        }
        10 => match at.u64(what)? {
            small if i64::try_from(small).is_ok() => Integer(small as i64),
            large => Unsigned(large),
        },
        11 => Integer(i64::from_le_bytes(at.array(what)?)),
        12 => Float64(f64::from_le_bytes(at.array(what)?)),
        other => return Err(at.broken(what, "a value type from 0 to 12", other.to_string())),
    })
}
