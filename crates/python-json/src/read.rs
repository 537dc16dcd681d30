//! Reading what Python wrote: a byte-order mark is skipped, and numbers that JSON cannot say are kept as marked texts.
//!
//! A value that is read as a number and is a marked text is refused by its reader as one of the wrong kind, so a key
//! that nobody reads may hold one, and a key that is read may not.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What Python writes for numbers that are not finite; longer ones first.
pub(crate) const NOT_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
/// Stands before each of them in a text, where no writer of JSON puts it.
pub(crate) const MARK: char = '\u{1}';

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a whole file; lines of errors are the file's.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(&plain(without_mark(bytes)))
}

/// The bytes behind a byte-order mark of UTF-8, if there is one.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// A value as the file shows it: `Infinity` bare, everything else as JSON.
pub fn shown(value: &Value) -> String {
    match value.as_str().and_then(|text| text.strip_prefix(MARK)) {
        Some(number) if NOT_FINITE.contains(&number) => number.to_owned(),
        _ => value.to_string(),
    }
}

/// The same JSON with bare numbers that are not finite as marked texts.
fn plain(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !NOT_FINITE.iter().any(|number| contains(bytes, number.as_bytes())) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let (mut at, mut in_text) = (0, false);
    while at < bytes.len() {
        let byte = bytes[at];
        if in_text {
            let taken = if byte == b'\\' { 2 } else { 1 };
            in_text = byte != b'"';
            let end = bytes.len().min(at + taken);
            out.extend_from_slice(&bytes[at..end]);
            at = end;
            continue;
        }
        in_text = byte == b'"';
        if let Some(number) = NOT_FINITE
            .iter()
            .find(|number| bytes[at..].starts_with(number.as_bytes()))
        {
            out.extend_from_slice(format!("\"\\u{:04x}{number}\"", u32::from(MARK)).as_bytes());
            at += number.len();
        } else {
            out.push(byte);
            at += 1;
        }
    }
    Cow::Owned(out)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_read_and_written_back() {
        // json.dumps({"a": [inf, -inf, nan], "NaN": "Infinity \" NaN", "b": 10**30}, indent=2)
        let text = "{\n  \"a\": [\n    Infinity,\n    -Infinity,\n    NaN\n  ],\n  \"NaN\": \"Infinity \\\" NaN\"\n}";
        let value: Value = from_slice(text.as_bytes()).unwrap();
        assert_eq!(value["NaN"], "Infinity \" NaN");
        let shown: Vec<String> = value["a"].as_array().unwrap().iter().map(shown).collect();
        assert_eq!(shown, ["Infinity", "-Infinity", "NaN"]);
        assert!(value["a"][0].as_f64().is_none(), "it is no number to whoever reads it");
        assert_eq!(crate::to_string(&value), text);
    }

    #[test]
    fn a_mark_of_byte_order_and_a_large_number_are_read() {
        let value: Value = from_slice(b"\xef\xbb\xbf{\"length\": 1000000000000000019884624838656}").unwrap();
        assert_eq!(value["length"].as_f64(), Some(1e30));
    }

    #[test]
    fn what_is_broken_is_refused_with_its_line() {
        for text in [
            "{\n\"a\": NaN,\n}",
            "{\n\n\"a\": Infinite}",
            "{\"a\":\n1,\n\"b\": \"NaN}",
        ] {
            let error = from_slice::<Value>(text.as_bytes()).unwrap_err();
            assert_eq!(error.line(), 3, "{text}: {error}");
        }
    }
}
