//! A change of generation on file systems without links: FAT, some network shares.
//!
//! Names change one after the other, in an order in which no mixture can be loaded: what readers enter by (`config.json`,
//! `adapter_config.json`, `memory_config.json`) goes first and comes last, so between the old and the new generation a
//! reader finds nothing. Once the new files lie in `.model.next` the change is decided; a killed process's is ended by the
//! next one that writes there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{Error, Result, disk, forms};

/// The new files, until all are in place.
pub(crate) const NEXT: &str = ".model.next";
/// In it: the old files that have no successor, by line.
const REPLACED: &str = ".replaced";

/// As [`crate::generation::publish`], in this order.
pub(crate) fn publish(folder: &Path, aside: &Path, new: &BTreeSet<PathBuf>, old: &BTreeSet<PathBuf>) -> Result<()> {
    let gone = old.difference(new);
    let lines: Vec<String> = gone.map(|path| path.display().to_string()).collect();
    let path = aside.join(REPLACED);
    disk::fault::point()?;
    std::fs::write(&path, lines.join("\n")).map_err(Error::io(&path, "write"))?;
    disk::sync(&path)?;
    disk::sync(aside)?;
    disk::rename(aside, &folder.join(NEXT))?;
    disk::sync(folder)?;
    settle(folder)
}

/// Ends a change that was decided.
pub(crate) fn settle(folder: &Path) -> Result<()> {
    let next = folder.join(NEXT);
    if !next.is_dir() {
        return Ok(());
    }
    let path = next.join(REPLACED);
    let text = match std::fs::read_to_string(&path) {
        // All are in place.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return disk::remove(&next),
        text => text.map_err(Error::io(&path, "read"))?,
    };
    let gone: Vec<&Path> = text.lines().map(Path::new).collect();
    let is_entry = |path: &Path| path.to_str().is_some_and(forms::is_entry);
    let mut new = disk::files_below(&next)?;
    new.retain(|path| path != Path::new(REPLACED));
    let entries = gone.iter().copied().chain(new.iter().map(PathBuf::as_path));
    for path in entries.filter(|path| is_entry(path)) {
        disk::remove_file(&folder.join(path))?;
    }
    disk::sync(folder)?;
    for path in &gone {
        disk::remove_file(&folder.join(path))?;
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            disk::remove_empty(&folder.join(above))?;
        }
    }
    new.sort_by_key(|path| is_entry(path));
    for path in &new {
        let to = folder.join(path);
        if let Some(above) = to.parent() {
            disk::make_folders(above)?;
        }
        disk::rename(&next.join(path), &to)?;
    }
    disk::sync(folder)?;
    disk::remove_file(&path)?;
    disk::remove(&next)?;
    disk::sync(folder)
}
