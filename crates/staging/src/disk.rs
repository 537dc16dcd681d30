//! The system calls that change a folder, each with its place in the error.
//!
//! Every change of a name goes through here, so that the tests can stop before any of them: see [`fault`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Gives what lies at `from` the name `to`, in the place of a file or link that has it.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fault::point()?;
    fs::rename(from, to).map_err(Error::io(to, "rename into place"))
}

/// A second name for the file `from`.
pub(crate) fn hard_link(from: &Path, to: &Path) -> Result<()> {
    fault::point()?;
    fault::link(to)?;
    fs::hard_link(from, to).map_err(Error::io(to, "link"))
}

/// A name `at` that stands for the path `target`, which need not be there.
pub(crate) fn symlink(target: &Path, at: &Path) -> Result<()> {
    fault::point()?;
    fault::link(at)?;
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(target, at);
    #[cfg(not(unix))]
    let made = std::os::windows::fs::symlink_file(target, at);
    made.map_err(Error::io(at, "link"))
}

/// Removes a file or a link; one that is not there is no error.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    fault::point()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "delete")(error)),
        _ => Ok(()),
    }
}

/// Removes a folder if it is empty.
pub(crate) fn remove_empty(path: &Path) -> Result<()> {
    fault::point()?;
    // One that holds something stays.
    let _ = fs::remove_dir(path);
    Ok(())
}

/// Removes a file, or a folder with all that is in it; what is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    fault::point()?;
    let Ok(found) = path.symlink_metadata() else {
        return Ok(());
    };
    let gone = match found.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    gone.map_err(Error::io(path, "delete"))
}

/// Makes a folder and those above it.
pub(crate) fn make_folders(path: &Path) -> Result<()> {
    fault::point()?;
    fs::create_dir_all(path).map_err(Error::io(path, "create"))
}

/// Makes a folder that must not be there yet.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fault::point()?;
    fs::create_dir(path).map_err(Error::io(path, "create"))
}

/// Waits until a file or folder is on the disk.
pub(crate) fn sync(path: &Path) -> Result<()> {
    fault::point()?;
    File::open(path)
        // The tests change thousands of names; what they stop is this process, not the disk.
        .and_then(|file| if cfg!(test) { Ok(()) } else { file.sync_all() })
        .map_err(Error::io(path, "sync"))
}

/// Waits until all that is below a folder is on the disk.
pub(crate) fn sync_tree(folder: &Path) -> Result<()> {
    for file in files_below(folder)? {
        let path = folder.join(&file);
        if !path.is_symlink() {
            sync(&path)?;
        }
    }
    for inner in folders_below(folder)? {
        sync(&folder.join(inner))?;
    }
    sync(folder)
}

/// The files and links below a folder, by their paths in it, sorted; none if it is not there.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    walk(folder).map(|(files, _)| files)
}

/// The folders below a folder, by their paths in it, inner ones first; none if it is not there.
pub(crate) fn folders_below(folder: &Path) -> Result<Vec<PathBuf>> {
    walk(folder).map(|(_, folders)| folders)
}

fn walk(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let mut open = vec![PathBuf::new()];
    while let Some(inner) = open.pop() {
        for name in names(&folder.join(&inner))? {
            let path = inner.join(name);
            let kind = folder.join(&path).symlink_metadata();
            if kind.is_ok_and(|found| found.is_dir()) {
                folders.push(path.clone());
                open.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    folders.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok((files, folders))
}

/// What lies in a folder, sorted; nothing if it is not there.
pub(crate) fn names(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder, "read"))?,
    };
    let mut names: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.file_name().into()))
        .collect::<std::io::Result<_>>()
        .map_err(Error::io(folder, "read"))?;
    names.sort();
    Ok(names)
}

/// Where a test stops the process: nothing in a build that is no test of this crate.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests they fail")]
pub(crate) mod fault {
    use std::path::Path;

    use crate::Result;

    pub(crate) fn point() -> Result<()> {
        Ok(())
    }

    pub(crate) fn link(_: &Path) -> Result<()> {
        Ok(())
    }
}

/// Where a test stops the process.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::Cell;
    use std::path::Path;

    use crate::{Error, Result};

    thread_local! {
        static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
        static LINKS: Cell<bool> = const { Cell::new(true) };
    }

    /// After `count` further changes all fail, as in a process that is dead.
    pub(crate) fn stop_after(count: usize) {
        LEFT.set(count);
    }

    /// Whether the file system knows links.
    pub(crate) fn allow_links(allowed: bool) {
        LINKS.set(allowed);
    }

    /// Before each change.
    pub(crate) fn point() -> Result<()> {
        match LEFT.get() {
            0 => Err(Error::io(Path::new("here"), "live")(std::io::Error::other("killed"))),
            usize::MAX => Ok(()),
            left => {
                LEFT.set(left - 1);
                Ok(())
            }
        }
    }

    /// Before each link.
    pub(crate) fn link(at: &Path) -> Result<()> {
        match LINKS.get() {
            true => Ok(()),
            false => Err(Error::io(at, "link")(std::io::ErrorKind::Unsupported.into())),
        }
    }
}
