//! JSON as Python's `json.dumps` prints it, so that files come back byte for byte.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::read::{MARK, NOT_FINITE};

/// The value as text: two spaces, `1e-06` for a millionth, nothing but ASCII, no newline at the end.
pub fn to_string(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Python(PrettyFormatter::new()));
    value.serialize(&mut serializer).expect("JSON values print");
    bare(String::from_utf8(bytes).expect("ASCII is UTF-8"))
}

/// The value in one line, as without `indent`.
pub fn to_line(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, Line))
        .expect("JSON values print");
    bare(String::from_utf8(bytes).expect("ASCII is UTF-8"))
}

/// The same text with the numbers that were read as marked texts as Python writes them.
fn bare(text: String) -> String {
    let mark = format!("\\u{:04x}", u32::from(MARK));
    if !text.contains(&mark) {
        return text;
    }
    let marked = |text: String, number: &&str| text.replace(&format!("\"{mark}{number}\""), number);
    NOT_FINITE.iter().fold(text, marked)
}

struct Python(PrettyFormatter<'static>);

struct Line;

impl Formatter for Line {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write_f64(writer, value)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_ascii(writer, fragment)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn write_f64<W: ?Sized + Write>(writer: &mut W, value: f64) -> io::Result<()> {
    let scientific = format!("{value:e}");
    match scientific
        .split_once('e')
        .map(|(digits, power)| (digits, power.parse::<i32>()))
    {
        Some((digits, Ok(power))) if !(-4..16).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            write!(writer, "{digits}e{sign}{:02}", power.abs())
        }
        _ => write!(writer, "{value:?}"),
    }
}

fn write_ascii<W: ?Sized + Write>(writer: &mut W, fragment: &str) -> io::Result<()> {
    for letter in fragment.chars() {
        if matches!(letter, ' '..='~') {
            write!(writer, "{letter}")?;
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
    }
    Ok(())
}

impl Formatter for Python {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write_f64(writer, value)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_ascii(writer, fragment)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_print_as_python_prints_them() {
        // json.dumps([0.0, 1e-5, 0.0001, 1e16, 123456789012345.0, 1.5e-7, -2.5, 1, "ä🦀\x7f\n", {}, []], indent=2)
        let value = json!([
            0.0,
            1e-5,
            0.0001,
            1e16,
            123_456_789_012_345.0,
            1.5e-7,
            -2.5,
            1,
            "ä🦀\u{7f}\n",
            {},
            []
        ]);
        let wanted = "[\n  0.0,\n  1e-05,\n  0.0001,\n  1e+16,\n  123456789012345.0,\n  1.5e-07,\n  -2.5,\n  1,\n  \
                      \"\\u00e4\\ud83e\\udd80\\u007f\\n\",\n  {},\n  []\n]";
        assert_eq!(to_string(&value), wanted);
        // json.dumps({"a": [1, 2.5e-06], "b": "é"})
        let line = to_line(&json!({"a": [1, 2.5e-6], "b": "é"}));
        assert_eq!(line, r#"{"a": [1, 2.5e-06], "b": "\u00e9"}"#);
    }
}
