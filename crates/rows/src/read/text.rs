//! Plain text files: a row a line, a paragraph, or the file.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Raw, SampleBy, utf8};
use crate::Error;
use crate::error::Unit;

pub(super) fn samples(path: &Path, bytes: &[u8], by: SampleBy) -> Result<Raw, Error> {
    let text = utf8(path, bytes)?;
    let mut rows = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (i, line) in text.lines().enumerate() {
        let ends = match by {
            SampleBy::Line => true,
            SampleBy::Paragraph => line.trim().is_empty(),
            SampleBy::Document => false,
        };
        if ends && let Some(done) = open.take() {
            rows.push(done);
        }
        match &mut open {
            Some((_, sample)) => {
                sample.push('\n');
                sample.push_str(line);
            }
            None if line.trim().is_empty() => {}
            None => open = Some((i + 1, line.to_owned())),
        }
    }
    rows.extend(open);
    let row = |text: String| Map::from_iter([("text".to_owned(), Value::from(text))]);
    Ok(Raw {
        unit: Unit::Line,
        rows: rows.into_iter().map(|(line, text)| (line, row(text))).collect(),
    })
}
