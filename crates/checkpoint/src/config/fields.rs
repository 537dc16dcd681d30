//! Reading keys of a JSON object with errors that name the key, and the defaults of absent and of null keys apart.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A JSON object of a file, read key by key.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) object: &'a Map<String, Value>,
    /// Dotted, with a dot at its end, for messages.
    pub(super) prefix: &'a str,
}

impl<'a> Fields<'a> {
    /// The value of `key`; none if absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A count greater than 0.
    pub(super) fn count(&self, key: &str) -> Result<Option<i64>> {
        self.read(key, "a whole number above 0", |value| {
            whole(value).filter(|count| *count > 0)
        })
    }

    /// A count of things that are listed one by one, or the family's default: a file cannot ask for memory that it does not
    /// have.
    pub(super) fn few_or(&self, key: &str, most: i64, default: i64) -> Result<i64> {
        let count = self.count_or(key, default)?;
        if count > most {
            return Err(self.wrong(key, &format!("at most {most}"), &count.to_string()));
        }
        Ok(count)
    }

    /// A count, or the family's default.
    pub(super) fn count_or(&self, key: &str, default: i64) -> Result<i64> {
        Ok(self.count(key)?.unwrap_or(default))
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", Value::as_f64)
    }

    /// A finite number above 0 that must be there.
    pub(super) fn positive(&self, key: &str) -> Result<f64> {
        let number = self.read(key, "a number above 0", |value| {
            value.as_f64().filter(|number| *number > 0.0)
        })?;
        number.ok_or_else(|| self.wrong(key, "a number above 0", "nothing"))
    }

    /// A truth value; absent or null is false.
    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a text", Value::as_str)
    }

    /// An object, read key by key too; `prefix` is what its keys are called in messages.
    pub(super) fn object(&self, key: &str, prefix: &'a str) -> Result<Option<Fields<'a>>> {
        let object = self.read(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Fields {
            path: self.path,
            object,
            prefix,
        }))
    }

    /// Token ids: one, a list, none if null, `default` if absent.
    pub(super) fn tokens(&self, key: &str, default: &[i64]) -> Result<Vec<i64>> {
        match self.object.get(key) {
            None => Ok(default.to_vec()),
            Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids
                .iter()
                .map(|id| token_id(id).ok_or_else(|| self.wrong(key, "token ids", &short(id))))
                .collect(),
            Some(id) => match token_id(id) {
                Some(id) => Ok(vec![id]),
                None => Err(self.wrong(key, "a token id or a list of them", &short(id))),
            },
        }
    }

    /// An error unless `key` is absent, null, or one of what means "off".
    pub(super) fn refuse(&self, key: &str, off: &[Value], hint: &str) -> Result<()> {
        match self.get(key) {
            Some(value) if !off.contains(value) => Err(self.unsupported(key, value, hint)),
            _ => Ok(()),
        }
    }

    pub(super) fn unsupported(&self, key: &str, value: &Value, hint: &str) -> Error {
        Error::Unsupported {
            path: self.path.to_owned(),
            what: format!("`{}{key}` = {}", self.prefix, short(value)),
            hint: hint.to_owned(),
        }
    }

    pub(super) fn wrong(&self, key: &str, wanted: &str, found: &str) -> Error {
        Error::Key {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            wanted: wanted.to_owned(),
            found: found.to_owned(),
        }
    }

    fn read<T>(&self, key: &str, wanted: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key)
            .map(|value| read(value).ok_or_else(|| self.wrong(key, wanted, &short(value))))
            .transpose()
    }
}

/// A whole number, also where it is written as `32.0`.
pub(super) fn whole(value: &Value) -> Option<i64> {
    // Above this not every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || {
        value
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() < EXACT)
    };
    value.as_i64().or_else(|| float().map(|float| float as i64))
}

fn token_id(value: &Value) -> Option<i64> {
    whole(value).filter(|id| u32::try_from(*id).is_ok())
}

/// The value as JSON, cut where it would fill the screen.
fn short(value: &Value) -> String {
    let text = python_json::shown(value);
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
