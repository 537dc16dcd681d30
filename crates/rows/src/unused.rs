//! What is said of a file's columns that nothing reads.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Shape;
use crate::columns::Unread;

/// Columns that rows do not read, each with the rows in which it says something.
#[derive(Debug, Default)]
pub(crate) struct Unused {
    columns: BTreeMap<String, Column>,
}

#[derive(Debug, Default)]
struct Column {
    rows: usize,
    of_prompt: usize,
    media: usize,
    words: usize,
}

impl Unused {
    /// Counts a row's columns.
    pub(crate) fn add(&mut self, columns: Vec<(String, Unread)>) {
        for (name, kind) in columns {
            let column = self.columns.entry(name).or_default();
            column.rows += 1;
            column.of_prompt += usize::from(kind == Unread::OfPrompt);
            column.media += usize::from(kind == Unread::Media);
            column.words += usize::from(kind == Unread::Words);
        }
    }

    /// All of their names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.columns.keys().cloned().collect()
    }

    /// A line for each column of text, pictures, sounds or videos.
    pub(crate) fn remarks(&self, path: &Path, shape: Shape, rows: usize) -> Vec<String> {
        let may_matter = self
            .columns
            .iter()
            .filter(|(_, column)| column.of_prompt + column.media + column.words > 0);
        may_matter
            .map(|(name, column)| {
                let what = if column.media > 0 {
                    "pictures, sounds or videos are not read"
                } else if column.of_prompt > 0 {
                    "it may hold a part of the prompt"
                } else {
                    "its text is neither given to the model nor learnt"
                };
                format!(
                    "`{}`: column `{name}` is not read (shape `{}`), but says something in {} of {rows} rows: {what}\n\
                     hint: map it to a column that is read, e.g. columns = {{ {} = \"{name}\" }}, or remove it",
                    path.display(),
                    shape.name(),
                    column.of_prompt + column.media + column.words,
                    match shape {
                        Shape::Alpaca | Shape::AlpacaPreference => "input",
                        Shape::Messages | Shape::ShareGpt | Shape::ShareGptPreference => "system",
                        _ => "prompt",
                    },
                )
            })
            .collect()
    }
}
