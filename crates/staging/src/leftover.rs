//! Names for what is not finished, and what killed processes left under such names.
//!
//! `.NAME.PROCESS-COUNT.partial`. Whoever writes holds a lock on it, which ends with the process: what nobody holds, and
//! whose process is gone, is left over.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk;

const END: &str = ".partial";

/// A name beside `path` that nobody else uses.
pub(crate) fn aside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    path.with_file_name(format!(".{name}.{process}-{count}{END}"))
}

/// Says that the file or folder is in use; on file systems without locks the process's number must do.
pub(crate) fn claim(held: &File) {
    let _ = held.try_lock();
}

/// Removes what killed processes left in `folder` of what should have become `name` (of anything, if none), as far as it
/// can.
pub(crate) fn sweep(folder: &Path, name: Option<&OsStr>) {
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    for found in disk::names(folder).unwrap_or_default() {
        let Some((of, process)) = found.to_str().and_then(parse) else {
            continue;
        };
        let path = folder.join(&found);
        if name.is_none_or(|name| name == of) && is_dead(process, &path) {
            let _ = disk::remove(&path);
        }
    }
}

/// Whether `path` is what is not finished.
pub(crate) fn is_aside(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).and_then(parse).is_some()
}

/// The name and the process of what is not finished.
fn parse(text: &str) -> Option<(&str, u32)> {
    let (name, number) = text.strip_prefix('.')?.strip_suffix(END)?.rsplit_once('.')?;
    Some((name, number.split_once('-')?.0.parse().ok()?))
}

/// Seconds in which whoever made something has surely locked it.
const YOUNG: u64 = 5;

fn is_dead(process: u32, path: &Path) -> bool {
    let runs = !Path::new("/proc/self").exists() || Path::new("/proc").join(process.to_string()).exists();
    let lock = File::open(path).map(|file| file.try_lock());
    let age = path.symlink_metadata().and_then(|found| found.modified());
    let is_young = age.is_ok_and(|made| made.elapsed().is_ok_and(|age| age.as_secs() < YOUNG));
    match lock {
        // In a container that is started again, another process has the number.
        Ok(Ok(())) => !runs || !is_young,
        Ok(Err(TryLockError::WouldBlock)) => false,
        _ => !runs,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // No process has a number above the kernel's limit of 2^22.
        let (dead, held, other) = (
            ".run.9999999-0.partial",
            ".run.9999999-1.partial",
            ".walk.9999999-0.partial",
        );
        for name in [
            dead,
            held,
            other,
            ".run.partial",
            ".run.x-1.partial",
            "run.9999999-3.partial",
        ] {
            fs::write(at(name), "half").unwrap();
        }
        fs::create_dir(at(".run.9999999-7.partial")).unwrap();
        fs::write(at(".run.9999999-7.partial/a"), "half").unwrap();
        let lock = File::open(at(held)).unwrap();
        claim(&lock);
        sweep(folder.path(), Some(OsStr::new("run")));
        let left: Vec<_> = disk::names(folder.path()).unwrap();
        let wanted = [held, ".run.partial", ".run.x-1.partial", other, "run.9999999-3.partial"];
        assert_eq!(left, wanted.map(PathBuf::from));
        sweep(folder.path(), None);
        assert!(at(held).exists() && !at(other).exists());
    }
}
