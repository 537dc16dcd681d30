//! Data files, with what is told of columns that nothing reads.

use std::path::Path;

use anyhow::Result;
use data::{Dataset, ReadConfig};
use events::Events;

/// Reads a data file, and tells what its rows leave out.
pub fn read(path: &Path, config: &ReadConfig, events: &Events) -> Result<Dataset> {
    let rows = Dataset::read(path, config)?;
    for remark in rows.remarks() {
        events.warn(|| remark.as_str());
    }
    Ok(rows)
}

/// Tells what the rows of a file leave out; what cannot be read is another's to refuse.
pub fn tell(path: &Path, config: &ReadConfig, events: &Events) {
    drop(read(path, config, events));
}
