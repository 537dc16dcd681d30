//! A file that appears whole: written aside, synced, renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result, disk, leftover};

/// Writes `bytes` to `path` so that a crash leaves the old file or the new one.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = StagedFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

/// A file beside its final place; dropped without [`StagedFile::commit`], it is removed.
#[derive(Debug)]
pub struct StagedFile {
    out: Option<BufWriter<File>>,
    aside: PathBuf,
    path: PathBuf,
}

impl StagedFile {
    /// Begins to write `path`, in a folder that exists. What a killed process left of the same file is removed.
    pub fn create(path: &Path) -> Result<Self> {
        leftover::sweep(path.parent().unwrap_or(Path::new("")), path.file_name());
        let aside = leftover::aside(path);
        disk::fault::point()?;
        let file = File::create(&aside).map_err(Error::io(path, "write"))?;
        leftover::claim(&file);
        Ok(Self {
            out: Some(BufWriter::with_capacity(1 << 20, file)),
            aside,
            path: path.to_owned(),
        })
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let out = self.out.as_mut().expect("open until committed");
        out.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }

    /// Syncs the file and gives it its name.
    pub fn commit(mut self) -> Result<()> {
        let mut out = self.out.take().expect("committed once");
        out.flush().map_err(Error::io(&self.path, "write"))?;
        disk::fault::point()?;
        out.get_ref().sync_all().map_err(Error::io(&self.path, "write"))?;
        disk::rename(&self.aside, &self.path)?;
        // Closed behind the rename: until then nobody may take the file for one that was left over.
        drop(out);
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => disk::sync(folder),
            _ => disk::sync(Path::new(".")),
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        drop(self.out.take());
        // After a commit there is nothing under this name any more.
        let _ = disk::remove_file(&self.aside);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::fault::stop_after;

    #[test]
    fn an_abandoned_file_leaves_the_old_one_and_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_file(&path, b"old").unwrap();
        let mut file = StagedFile::create(&path).unwrap();
        file.write(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn stopped_anywhere_a_file_is_the_old_or_the_new_one() {
        for count in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.json");
            write_file(&path, b"old").unwrap();
            stop_after(count);
            let done = write_file(&path, b"the new one");
            stop_after(usize::MAX);
            let found = fs::read(&path).unwrap();
            assert!(found == b"old" || found == b"the new one", "after {count}: {found:?}");
            // The next writer removes what the dead one left, once it cannot be at work any more.
            for entry in fs::read_dir(folder.path()).unwrap() {
                let long_ago = std::time::SystemTime::now() - std::time::Duration::from_mins(1);
                fs::File::open(entry.unwrap().path())
                    .unwrap()
                    .set_modified(long_ago)
                    .unwrap();
            }
            write_file(&path, b"next").unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "after {count}");
            if done.is_ok() {
                assert!(count > 3, "{count}");
                break;
            }
        }
    }
}
