//! A folder, or files of a folder, written aside and put into place whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{Error, Result, disk, generation, leftover};

/// A folder beside its final place, or inside it if that is there; dropped before it is in place, it is removed with all
/// that is in it.
#[derive(Debug)]
pub struct StagedDir {
    aside: PathBuf,
    path: PathBuf,
    /// Locked: whoever finds the folder knows that it is being written.
    _held: Option<File>,
}

impl StagedDir {
    /// Begins to write the folder `path`; the folders above it are made. What killed processes left of it is removed, and
    /// what they had begun to put in place is ended.
    pub fn create(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(Error::io(path, "find"))?;
        if let Some(above) = path.parent() {
            disk::make_folders(above)?;
            leftover::sweep(above, path.file_name());
        }
        // Inside, because a folder may be the root of a file system of its own.
        let place = match path.is_dir() {
            true => {
                generation::recover(&path)?;
                path.join("model")
            }
            false => path.clone(),
        };
        let aside = leftover::aside(&place);
        disk::make_folder(&aside)?;
        let held = File::open(&aside).ok();
        if let Some(held) = &held {
            leftover::claim(held);
        }
        Ok(Self {
            aside,
            path,
            _held: held,
        })
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
        if !self.path.is_dir() {
            return self.rename();
        }
        let is_taken = |name: &PathBuf| self.path.join(name) != self.aside;
        if disk::names(&self.path)?.iter().any(is_taken) {
            return Err(Error::NotEmpty {
                path: self.path.clone(),
            });
        }
        generation::publish(&self.path, &self.aside, &|_| false)
    }

    /// With a hidden list of what it holds, so that the next generation replaces it all, whatever the names.
    pub fn with_list(self) -> Result<Self> {
        generation::list(&self.aside)?;
        Ok(self)
    }

    /// Syncs every file and puts all of them into the folder in one step, in the place of its files that `is_old`, that a
    /// list there names, or that have the same names. All others stay.
    ///
    /// `is_old` is given paths in the folder, `name` or `folder/name`, and of each folder first `folder/`: whether any file
    /// in it may be old. A reader finds the old files or the new ones, at any moment and wherever this process is killed.
    pub fn publish(self, is_old: impl Fn(&str) -> bool) -> Result<()> {
        match self.path.is_dir() {
            true => generation::publish(&self.path, &self.aside, &is_old),
            false => self.rename(),
        }
    }

    fn rename(&self) -> Result<()> {
        disk::sync_tree(&self.aside)?;
        disk::rename(&self.aside, &self.path)?;
        match self.path.parent() {
            Some(above) => disk::sync(above),
            None => Ok(()),
        }
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // Once in place there is nothing under this name any more.
        let _ = disk::remove(&self.aside);
    }
}

/// Removes a folder so that no half of it ever bears its name.
pub fn remove_dir(path: &Path) -> Result<()> {
    let dying = leftover::aside(path);
    disk::rename(path, &dying)?;
    disk::remove(&dying)
}

/// Ends or undoes what killed processes had begun to put into `folder`, and removes what they left aside in it.
pub fn tidy(folder: &Path) -> Result<()> {
    generation::recover(folder)?;
    leftover::sweep(folder, None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_appears_whole() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/run");
        let staged = StagedDir::create(&path).unwrap();
        fs::write(staged.path().join("x"), "1").unwrap();
        assert!(!path.exists());
        staged.commit().unwrap();
        assert_eq!(fs::read(path.join("x")).unwrap(), b"1");
        let second = StagedDir::create(&path).unwrap();
        fs::write(second.path().join("x"), "2").unwrap();
        assert!(matches!(second.commit(), Err(Error::NotEmpty { .. })));
        assert_eq!(fs::read(path.join("x")).unwrap(), b"1");
        assert_eq!(fs::read_dir(home.path().join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_may_be_staged_in_one_that_is() {
        let home = tempfile::tempdir().unwrap();
        let outer = StagedDir::create(&home.path().join("run")).unwrap();
        let inner = StagedDir::create(outer.path()).unwrap();
        fs::write(inner.path().join("x"), "1").unwrap();
        inner.publish(|_| true).unwrap();
        outer.commit().unwrap();
        assert_eq!(disk::names(home.path()).unwrap(), [PathBuf::from("run")]);
        assert_eq!(disk::names(&home.path().join("run")).unwrap(), [PathBuf::from("x")]);
    }

    #[test]
    fn an_empty_folder_is_filled_and_an_abandoned_one_leaves_no_trace() {
        let home = tempfile::tempdir().unwrap();
        drop(StagedDir::create(home.path()).unwrap());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        let staged = StagedDir::create(home.path()).unwrap();
        fs::write(staged.path().join("x"), "1").unwrap();
        staged.commit().unwrap();
        assert_eq!(fs::read(home.path().join("x")).unwrap(), b"1");
    }
}
