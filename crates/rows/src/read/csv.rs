//! Comma- or tab-separated tables with a header line; every value is a string, an empty one counts as absent.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Raw, without_mark};
use crate::error::Unit;
use crate::{Error, Place};

pub(super) fn table(path: &Path, bytes: &[u8], delimiter: u8) -> Result<Raw, Error> {
    let bytes = without_mark(bytes);
    let mut lines = Lines::of(bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let header = reader
        .headers()
        .map_err(|error| failed(path, &error, &mut lines))?
        .clone();
    let names = names(path, &header, delimiter)?;
    let mut rows = Vec::new();
    let mut last = None;
    for record in reader.records() {
        let record = record.map_err(|error| failed(path, &error, &mut lines))?;
        let begin = record.position().map_or(0, |position| position.byte() as usize);
        let (line, begin) = lines.at(begin);
        last = Some((line, begin));
        let cell = |value: &str| if value.is_empty() { Value::Null } else { value.into() };
        let row: Map<String, Value> = names
            .iter()
            .zip(&record)
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, value)| (name.clone(), cell(value)))
            .collect();
        rows.push((line, row));
    }
    if let Some((line, begin)) = last
        && ends_inside_quotes(&bytes[begin..], delimiter)
    {
        return Err(Error::Unreadable {
            at: Place::line(path, line),
            wanted: "a quotation mark that ends the field",
            found: "the end of the file".to_owned(),
            hint: "the file is cut off, or a quotation mark inside a field is not doubled",
        });
    }
    Ok(Raw { unit: Unit::Line, rows })
}

/// The header's names without the spaces around them; a column without a name is not read.
fn names(path: &Path, header: &csv::StringRecord, delimiter: u8) -> Result<Vec<String>, Error> {
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    let refuse = |found: String, hint| {
        Err(Error::Unreadable {
            at: Place::line(path, 1),
            wanted: "a header with a name for each column",
            found,
            hint,
        })
    };
    if let [only] = names.as_slice()
        && let Some(other) = [';', '\t', ',', '|'].into_iter().find(|c| only.contains(*c))
        && u32::from(delimiter) != u32::from(other)
    {
        let hint = match other {
            '\t' => "give the file the ending .tsv",
            ',' => "give the file the ending .csv",
            _ => "separate the columns by commas (.csv) or tabs (.tsv)",
        };
        return refuse(format!("one column `{only}`, whose name holds `{other}`"), hint);
    }
    for (at, name) in names.iter().enumerate() {
        if !name.is_empty() && names[..at].contains(name) {
            return refuse(format!("`{name}` twice"), "give each column its own name");
        }
    }
    Ok(names)
}

fn failed(path: &Path, error: &csv::Error, lines: &mut Lines) -> Error {
    let at = error.position().map_or_else(
        || Place::file(path),
        |at| Place::line(path, lines.at(at.byte() as usize).0),
    );
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => Error::Unreadable {
            at,
            wanted: "as many fields as the header has",
            found: format!("{len} fields under a header of {expected_len}"),
            hint: "put fields that hold the separator or line breaks in quotation marks",
        },
        csv::ErrorKind::Utf8 { err, .. } => Error::Unreadable {
            at,
            wanted: "UTF-8 text",
            found: err.to_string(),
            hint: "convert the file to UTF-8, e.g. iconv -f WINDOWS-1252 -t UTF-8",
        },
        _ => Error::Malformed {
            at,
            wanted: "a CSV table",
            found: error.to_string(),
        },
    }
}

/// Line numbers of growing positions; the reader's own are one too low where lines end in `\r\n`.
struct Lines<'b> {
    bytes: &'b [u8],
    at: usize,
    line: usize,
}

impl<'b> Lines<'b> {
    fn of(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0, line: 1 }
    }

    /// The line of the record that begins at or after this byte, behind line ends, and where it begins.
    fn at(&mut self, byte: usize) -> (usize, usize) {
        let byte = byte.min(self.bytes.len());
        if byte < self.at {
            (self.at, self.line) = (0, 1);
        }
        while self.at < byte || (self.at < self.bytes.len() && matches!(self.bytes[self.at], b'\r' | b'\n')) {
            let ends = match self.bytes[self.at] {
                b'\n' => true,
                b'\r' => self.bytes.get(self.at + 1) != Some(&b'\n'),
                _ => false,
            };
            self.line += usize::from(ends);
            self.at += 1;
        }
        (self.line, self.at)
    }
}

/// Whether the record has a quoted field that is never closed.
fn ends_inside_quotes(record: &[u8], delimiter: u8) -> bool {
    let (mut quoted, mut begins) = (false, true);
    let mut bytes = record.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match (quoted, byte) {
            (true, b'"') if bytes.peek() == Some(&&b'"') => drop(bytes.next()),
            (true, b'"') => quoted = false,
            (false, b'"') if begins => quoted = true,
            _ => {}
        }
        begins = !quoted && (byte == delimiter || byte == b'\n' || byte == b'\r');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_however_they_end() {
        for (text, wanted) in [
            ("text\na\n\nb\n", vec![2, 4]),
            ("text\r\na\r\n\r\nb\r\n", vec![2, 4]),
            ("text\ra\rb", vec![2, 3]),
            ("text\n\"a\nb\"\nc\n", vec![2, 4]),
            ("text\r\n\"a\r\nb\"\r\nc", vec![2, 4]),
            ("\u{feff}text\r\na\r\nb\r\n", vec![2, 3]),
        ] {
            let raw = table(Path::new("a.csv"), text.as_bytes(), b',').expect("a table");
            let lines: Vec<usize> = raw.rows.iter().map(|(line, _)| *line).collect();
            assert_eq!(lines, wanted, "{text:?}");
        }
    }

    #[test]
    fn a_quoted_field_must_end() {
        for (record, open) in [
            ("\"a", true),
            ("a,\"b\n", true),
            ("a,\"b\"\"", true),
            ("\"a\"", false),
            ("5\" pipe,b", false),
            ("\"a\"\"b\"\n", false),
        ] {
            assert_eq!(ends_inside_quotes(record.as_bytes(), b','), open, "{record:?}");
        }
    }
}
