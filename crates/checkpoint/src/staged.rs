//! Files and folders that appear whole ([`staging`]), with this crate's errors.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes `bytes` to `path` so that a crash leaves the old file or the new one.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = StagedFile::create(path, bytes.len() as u64)?;
    file.write(bytes)?;
    file.commit()
}

/// A file beside its final place; dropped without [`StagedFile::commit`], it is removed.
pub(crate) struct StagedFile {
    file: staging::StagedFile,
    path: PathBuf,
    needed: u64,
}

impl StagedFile {
    /// Begins to write `path`; `needed` is the whole size in bytes, for the error of a full disk.
    pub(crate) fn create(path: &Path, needed: u64) -> Result<Self> {
        Ok(Self {
            file: staging::StagedFile::create(path).map_err(Error::staged(path, needed))?,
            path: path.to_owned(),
            needed,
        })
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes).map_err(Error::staged(&self.path, self.needed))
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn commit(self) -> Result<()> {
        self.file.commit().map_err(Error::staged(&self.path, self.needed))
    }
}

/// A folder of a model or an adapter that is being written; dropped before it is in place, it is removed with all that is
/// in it.
#[derive(Debug)]
pub struct StagedDir {
    staged: staging::StagedDir,
    path: PathBuf,
}

impl StagedDir {
    /// Begins to write the folder `path`; the folders above it are made.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            staged: staging::StagedDir::create(path).map_err(Error::staged(path, 0))?,
            path: path.to_owned(),
        })
    }

    /// Where to write what the folder shall hold.
    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    /// Puts the folder in place, whole. It may be there and hold other files, but no model and no adapter: what lies beside
    /// one is read as a part of it.
    pub fn commit(self) -> Result<()> {
        refuse_model(&self.path)?;
        self.replace(|_| false)
    }

    /// Puts the folder in place, whole, and every file of an older model or adapter goes in the same step.
    pub fn commit_over_older(self) -> Result<()> {
        self.replace(staging::is_model_file)
    }

    fn replace(self, is_old: impl Fn(&str) -> bool) -> Result<()> {
        self.staged.publish(is_old).map_err(Error::staged(&self.path, 0))
    }
}

/// An error if the folder holds a model or an adapter.
pub(crate) fn refuse_model(folder: &Path) -> Result<()> {
    match staging::model_in(folder) {
        None => Ok(()),
        Some(name) => Err(Error::Exists {
            path: folder.to_owned(),
            found: match name.starts_with("adapter") {
                true => "an adapter".into(),
                false => "a model".into(),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_adapter_never_comes_to_lie_beside_a_model() {
        let home = tempfile::tempdir().unwrap();
        let stage = |name: &str| {
            let staged = StagedDir::create(home.path()).unwrap();
            fs::write(staged.path().join(name), name).unwrap();
            staged
        };
        fs::write(home.path().join("notes.txt"), "mine").unwrap();
        stage("config.json").commit().unwrap();
        let error = stage("adapter_config.json").commit().unwrap_err().to_string();
        assert!(error.contains("a model is there already"), "{error}");
        stage("adapter_config.json").commit_over_older().unwrap();
        let mut left: Vec<_> = fs::read_dir(home.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["adapter_config.json", "notes.txt"]);
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
