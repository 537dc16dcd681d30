//! Files and folders written aside, synced, then renamed: a reader sees the old one or the new one, never a half.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Writes `bytes` to `path` so that a crash leaves the old file or the new one.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = StagedFile::create(path, bytes.len() as u64)?;
    file.write(bytes)?;
    file.commit()
}

/// A file beside its final place; dropped without [`StagedFile::commit`], it is removed.
pub(crate) struct StagedFile {
    out: Option<BufWriter<File>>,
    aside: PathBuf,
    path: PathBuf,
    needed: u64,
}

impl StagedFile {
    /// Begins to write `path`; `needed` is the whole size in bytes, for the error of a full disk.
    pub(crate) fn create(path: &Path, needed: u64) -> Result<Self> {
        let aside = aside(path);
        let file = File::create(&aside).map_err(Error::write(path, needed))?;
        Ok(Self {
            out: Some(BufWriter::with_capacity(1 << 20, file)),
            aside,
            path: path.to_owned(),
            needed,
        })
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let out = self.out.as_mut().expect("open until committed");
        out.write_all(bytes).map_err(Error::write(&self.path, self.needed))
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn commit(mut self) -> Result<()> {
        let failed = Error::write(&self.path, self.needed);
        let mut out = self.out.take().expect("committed once");
        out.flush().map_err(&failed)?;
        out.get_ref().sync_all().map_err(&failed)?;
        drop(out);
        fs::rename(&self.aside, &self.path).map_err(&failed)?;
        sync_folder(self.path.parent())
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        drop(self.out.take());
        // After a commit there is nothing under this name any more.
        let _ = fs::remove_file(&self.aside);
    }
}

/// A folder beside its final place; dropped without [`StagedDir::commit`], it is removed with all that is in it.
#[derive(Debug)]
pub struct StagedDir {
    aside: PathBuf,
    path: PathBuf,
}

impl StagedDir {
    /// Begins to write the folder `path`; the folders above it are made.
    pub fn create(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(Error::io(path, "find"))?;
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).map_err(Error::io(above, "create"))?;
        }
        let aside = aside(&path);
        fs::create_dir(&aside).map_err(Error::io(&aside, "create"))?;
        Ok(Self { aside, path })
    }

    /// Where to write what the folder shall hold.
    #[expect(
        clippy::misnamed_getters,
        reason = "until it is committed, what is written lies aside"
    )]
    pub fn path(&self) -> &Path {
        &self.aside
    }

    /// Syncs every file and gives the folder its name. The name must be free or an empty folder.
    pub fn commit(self) -> Result<()> {
        sync_tree(&self.aside)?;
        if self.path.is_dir() {
            // Renaming onto an empty folder is atomic too; onto a full one it fails and changes nothing.
            fs::rename(&self.aside, &self.path).map_err(|_| Error::Exists {
                path: self.path.clone(),
                found: "a folder that is not empty".into(),
            })?;
        } else {
            fs::rename(&self.aside, &self.path).map_err(Error::io(&self.path, "rename into place"))?;
        }
        sync_folder(self.path.parent())
    }

    /// Syncs every file and moves each into the folder, which may hold others; `last` is moved after all the rest.
    pub fn commit_into(self, last: &str) -> Result<()> {
        sync_tree(&self.aside)?;
        fs::create_dir_all(&self.path).map_err(Error::io(&self.path, "create"))?;
        let mut entries: Vec<PathBuf> = fs::read_dir(&self.aside)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(Error::io(&self.aside, "read"))?;
        entries.sort_by_key(|path| (path.file_name().is_some_and(|name| name == last), path.clone()));
        for from in entries {
            let to = self.path.join(from.file_name().expect("an entry has a name"));
            if from.is_dir() && to.is_dir() {
                fs::remove_dir_all(&to).map_err(Error::io(&to, "replace"))?;
            }
            fs::rename(&from, &to).map_err(Error::io(&to, "rename into place"))?;
        }
        sync_folder(Some(&self.path))
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // After a commit there is nothing, or an empty folder, under this name any more.
        let _ = fs::remove_dir_all(&self.aside);
    }
}

/// A name in the same folder that nobody else uses.
fn aside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    path.with_file_name(format!(".{name}.{process}-{count}.partial"))
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
        let path = entry.map_err(Error::io(folder, "read"))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(Error::io(&path, "sync"))?;
        }
    }
    sync_folder(Some(folder))
}

fn sync_folder(folder: Option<&Path>) -> Result<()> {
    let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(Error::io(folder, "sync"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_file_leaves_the_old_one_and_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_file(&path, b"old").unwrap();
        let mut file = StagedFile::create(&path, 3).unwrap();
        file.write(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_appears_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/run");
        let staged = StagedDir::create(&path).unwrap();
        fs::write(staged.path().join("x"), "1").unwrap();
        assert!(!path.exists());
        staged.commit().unwrap();
        assert_eq!(fs::read(path.join("x")).unwrap(), b"1");
        let second = StagedDir::create(&path).unwrap();
        fs::write(second.path().join("x"), "2").unwrap();
        assert!(matches!(second.commit(), Err(Error::Exists { .. })));
        assert_eq!(fs::read(path.join("x")).unwrap(), b"1");
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_is_said_plainly() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let text = Error::write(Path::new("m/model.safetensors"), 1234)(full).to_string();
        assert!(
            text.contains("m/model.safetensors") && text.contains("disk is full") && text.contains("1234"),
            "{text}"
        );
    }
}
