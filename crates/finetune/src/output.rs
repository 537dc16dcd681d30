//! Standard output: results for people or machines. Messages go to stderr.

mod terminal;

use std::io::{self, Write as _};

use anyhow::Result;
pub use events::figures::{bytes, count, seconds};
use serde::Serialize;
pub use terminal::events;

/// A line of text.
pub fn line(text: impl AsRef<str>) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref())?;
    Ok(())
}

/// A piece of text that is shown at once.
pub fn piece(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A value as one line of JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string(value)?)
}

/// A message for whoever watches.
pub fn note(text: impl AsRef<str>) {
    terminal::show(text.as_ref());
}

/// Whether the reader of our output went away, as `head` does: no failure.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
