//! Some files of a folder, replaced by others all at once.
//!
//! POSIX renames one name at a time, and a folder with checkpoints and logs cannot be swapped as a whole. So for the moment
//! of the change every name goes through one link, and that link is renamed:
//!
//! 1. each old file gets a second name (a hard link) in `.model.old/`, and the new files lie in `.model.new/`;
//! 2. `.model.now` points to `.model.old`, and each old name becomes a link to `.model.now/NAME`: the same bytes as before;
//! 3. each name that only the new generation has becomes such a link too, to nothing yet, so that readers see no file;
//! 4. `.model.now` is renamed to point to `.model.new`: **the one step**, in which every name changes at once;
//! 5. names that only the old generation had, now links to nothing, go; each new file is renamed onto its link, so that
//!    what stays is plain files; then the three helpers go.
//!
//! Killed before step 4 the folder reads as the old generation, behind it as the new one, for every reader, ours or
//! Transformers'; [`recover`], called by whoever next writes there, undoes or ends it. What no order of system calls can
//! give is a consistent view to a reader who opens one file before step 4 and another one behind it.
//!
//! File systems without links get the second best, [`crate::ordered`].

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{Error, Result, disk, leftover, ordered};

const OLD: &str = ".model.old";
const NEW: &str = ".model.new";
const NOW: &str = ".model.now";
const NEXT: &str = ".model.flip";
/// The files of the last generation, by line.
const LIST: &str = ".published";

/// Writes into `aside` which files it holds.
pub(crate) fn list(aside: &Path) -> Result<()> {
    let files = disk::files_below(aside)?;
    let lines: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    disk::fault::point()?;
    let path = aside.join(LIST);
    std::fs::write(&path, lines.join("\n") + "\n").map_err(Error::io(&path, "write"))
}

/// Puts the files of `aside`, a folder in `folder` or beside it, in the place of the old ones.
pub(crate) fn publish(folder: &Path, aside: &Path, is_old: &dyn Fn(&str) -> bool) -> Result<()> {
    let _held = lock(folder);
    settle(folder)?;
    let new: BTreeSet<PathBuf> = disk::files_below(aside)?.into_iter().collect();
    let old = old_files(folder, aside, &new, is_old)?;
    let change = Change {
        folder,
        new: &new,
        old: &old,
    };
    let has_clashes = change.clashes()?;
    disk::sync_tree(aside)?;
    if has_clashes || change.keep_old().is_err() {
        roll_back(folder)?;
        return ordered::publish(folder, aside, &new, &old);
    }
    match change.flip(aside) {
        Ok(()) => roll_forward(folder),
        Err(error) => {
            let _ = settle(folder);
            Err(error)
        }
    }
}

/// Ends or undoes what a killed process had begun.
pub(crate) fn recover(folder: &Path) -> Result<()> {
    let is_there = |name: &&str| folder.join(name).symlink_metadata().is_ok();
    match [OLD, NEW, NOW, NEXT, ordered::NEXT].iter().any(is_there) {
        true => {
            let _held = lock(folder);
            settle(folder)
        }
        false => Ok(()),
    }
}

/// A change under way.
struct Change<'a> {
    folder: &'a Path,
    new: &'a BTreeSet<PathBuf>,
    old: &'a BTreeSet<PathBuf>,
}

impl Change<'_> {
    /// Whether a file shall stand where a folder stands, or the other way round; an error if that folder must stay.
    fn clashes(&self) -> Result<bool> {
        let mut clashes = false;
        for path in self.new {
            let top = self.folder.join(path);
            if is_folder(&top) {
                let stays = |inner: &PathBuf| !self.old.contains(&path.join(inner));
                if disk::files_below(&top)?.iter().any(stays) {
                    let source = std::io::ErrorKind::IsADirectory.into();
                    return Err(Error::io(&top, "replace")(source));
                }
                clashes = true;
            }
            let above = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
            clashes |= above.map(|above| self.folder.join(above)).any(|above| above.is_file());
        }
        Ok(clashes)
    }

    /// Gives each old file its second name; an error where the file system knows no links.
    fn keep_old(&self) -> Result<()> {
        let home = self.folder.join(OLD);
        disk::make_folder(&home)?;
        disk::symlink(Path::new(OLD), &self.folder.join(NOW))?;
        for path in self.old {
            let (from, to) = (self.folder.join(path), home.join(path));
            if let Some(above) = to.parent() {
                disk::make_folders(above)?;
            }
            match from.is_symlink() {
                // It would mean another place from there.
                true => disk::symlink(&from.canonicalize().unwrap_or_else(|_| from.clone()), &to)?,
                false => disk::hard_link(&from, &to)?,
            }
        }
        Ok(())
    }

    /// Puts links in the place of every name, and lets them all point to the new files at once.
    fn flip(&self, aside: &Path) -> Result<()> {
        let at = |name: &str| self.folder.join(name);
        disk::rename(aside, &at(NEW))?;
        for path in self.old {
            disk::symlink(&through_now(path), &at(NEXT))?;
            disk::rename(&at(NEXT), &self.folder.join(path))?;
        }
        for path in self.new.difference(self.old) {
            let to = self.folder.join(path);
            if let Some(above) = to.parent() {
                disk::make_folders(above)?;
            }
            disk::symlink(&through_now(path), &to)?;
        }
        disk::sync(self.folder)?;
        disk::symlink(Path::new(NEW), &at(NEXT))?;
        disk::rename(&at(NEXT), &at(NOW))?;
        disk::sync(self.folder)
    }
}

/// What the link at `path` points to.
fn through_now(path: &Path) -> PathBuf {
    let up = path.components().skip(1).map(|_| Path::new(".."));
    up.chain([Path::new(NOW), path]).collect()
}

fn is_through_now(folder: &Path, path: &Path) -> bool {
    folder
        .join(path)
        .read_link()
        .is_ok_and(|target| target == through_now(path))
}

/// Leaves one whole generation, whatever step the last process died in.
fn settle(folder: &Path) -> Result<()> {
    match folder.join(NOW).read_link() {
        Ok(target) if target == Path::new(NEW) => roll_forward(folder)?,
        _ => roll_back(folder)?,
    }
    ordered::settle(folder)
}

fn roll_forward(folder: &Path) -> Result<()> {
    for path in disk::files_below(&folder.join(OLD))? {
        if is_through_now(folder, &path) && !folder.join(NEW).join(&path).exists() {
            disk::remove_file(&folder.join(&path))?;
        }
    }
    for path in disk::files_below(&folder.join(NEW))? {
        disk::rename(&folder.join(NEW).join(&path), &folder.join(&path))?;
    }
    for inner in disk::folders_below(&folder.join(OLD))? {
        disk::remove_empty(&folder.join(inner))?;
    }
    clean(folder)
}

fn roll_back(folder: &Path) -> Result<()> {
    let old = folder.join(OLD);
    for path in disk::files_below(&folder.join(NEW))? {
        if is_through_now(folder, &path) && old.join(&path).symlink_metadata().is_err() {
            disk::remove_file(&folder.join(&path))?;
        }
    }
    for path in disk::files_below(&old)? {
        if is_through_now(folder, &path) {
            disk::rename(&old.join(&path), &folder.join(&path))?;
        }
    }
    for inner in disk::folders_below(&folder.join(NEW))? {
        disk::remove_empty(&folder.join(inner))?;
    }
    clean(folder)
}

/// Removes the helpers, on which no name depends any more.
fn clean(folder: &Path) -> Result<()> {
    let mut any = false;
    for name in [NOW, NEXT, NEW, OLD] {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            if !any {
                disk::sync(folder)?;
            }
            any = true;
            disk::remove(&path)?;
        }
    }
    match any {
        true => disk::sync(folder),
        false => Ok(()),
    }
}

/// The files in `folder` that the new generation replaces or does without.
fn old_files(
    folder: &Path,
    aside: &Path,
    new: &BTreeSet<PathBuf>,
    is_old: &dyn Fn(&str) -> bool,
) -> Result<BTreeSet<PathBuf>> {
    let listed = std::fs::read_to_string(folder.join(LIST)).unwrap_or_default();
    let is_inside = |path: &PathBuf| {
        path.components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    let listed = listed.lines().map(PathBuf::from).filter(is_inside);
    let mut old: BTreeSet<PathBuf> = listed.chain([PathBuf::from(LIST)]).chain(new.iter().cloned()).collect();
    for name in disk::names(folder)? {
        let Some(text) = name.to_str().filter(|_| folder.join(&name) != aside) else {
            continue;
        };
        if !is_folder(&folder.join(&name)) {
            old.extend(is_old(text).then(|| name.clone()));
        } else if is_old(&format!("{text}/")) {
            let inner = disk::files_below(&folder.join(&name))?;
            let inner = inner.into_iter().map(|path| name.join(path));
            old.extend(inner.filter(|path| path.to_str().is_some_and(is_old)));
        }
    }
    let is_there = |path: &PathBuf| {
        let path = folder.join(path);
        path.symlink_metadata().is_ok() && !is_folder(&path)
    };
    old.retain(is_there);
    Ok(old)
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// Nobody else changes the folder's files meanwhile; on file systems without locks that is the caller's care.
///
/// A folder that is itself being written aside has its lock already, and nobody else in it.
fn lock(folder: &Path) -> Option<File> {
    if leftover::is_aside(folder) {
        return None;
    }
    let held = File::open(folder).ok()?;
    held.lock().ok()?;
    Some(held)
}

#[cfg(test)]
mod tests;
