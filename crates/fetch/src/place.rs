//! The local store: what was fetched, where every program of this workspace finds it.
//!
//! `$FINETUNE_CACHE`, else `$XDG_CACHE_HOME/finetune`, else `~/.cache/finetune`.

use crate::progress::Watch;
use anyhow::{Context, Result};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The local store.
///
/// `wheels/` holds downloads, `models/NAME/` and `data/NAME/` what was unpacked from them, `libtorch-VERSION/` libtorch.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    note: Note,
}

/// Where a line for the person who waits goes: `|line| eprintln!("{line}")`.
pub type Note = fn(&str);

impl Cache {
    /// The store that the environment names; `note` is told what a person should know while it is filled.
    pub fn from_env(note: Note) -> Result<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = choose(set("FINETUNE_CACHE"), set("XDG_CACHE_HOME"), set("HOME"))?;
        let root = std::path::absolute(&root).with_context(|| format!("cache folder `{}`", root.display()))?;
        Ok(Self { root, note })
    }

    /// A store in the folder `root`, filled in silence.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            note: |_| {},
        }
    }

    /// Says something to whoever waits.
    pub(crate) fn note(&self, text: &str) {
        (self.note)(text);
    }

    /// Follows a folder that grows to about `bytes`.
    pub fn watch(&self, label: &str, folder: &Path, bytes: u64) -> Watch {
        Watch::folder(label, folder, bytes, self.note)
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Downloaded archives.
    pub fn wheels(&self) -> PathBuf {
        self.root.join("wheels")
    }

    /// Models, a folder each.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// Data sets, a folder each.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Held while the cache is written to, so that two commands do not fetch the same thing twice.
    pub fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot make the cache folder `{}`", self.root.display()))?;
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
        if file.try_lock().is_err() {
            self.note(&format!("waiting for another command that holds `{}`", path.display()));
            file.lock()
                .with_context(|| format!("cannot lock `{}`", path.display()))?;
        }
        Ok(file)
    }
}

fn choose(own: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf> {
    // The XDG specification says that a relative path is to be ignored.
    let xdg = xdg.filter(|path| path.is_absolute()).map(|path| path.join("finetune"));
    own.or(xdg)
        .or_else(|| home.map(|path| path.join(".cache/finetune")))
        .context("no place for the cache: neither FINETUNE_CACHE nor HOME is set")
}

/// Writes `text` to `path`, unless it is there already: a file that cargo watches must not look new.
pub fn write_if_changed(path: &Path, text: &str) -> Result<bool> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    }
    staging::write_file(path, text.as_bytes())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_variable_wins_then_xdg_then_home() {
        let path = |text: &str| Some(PathBuf::from(text));
        let rows = [
            (path("/a"), path("/b"), path("/c"), "/a"),
            (None, path("/b"), path("/c"), "/b/finetune"),
            (None, path("relative"), path("/c"), "/c/.cache/finetune"),
            (None, None, path("/c"), "/c/.cache/finetune"),
        ];
        for (own, xdg, home, wanted) in rows {
            assert_eq!(choose(own, xdg, home).unwrap(), PathBuf::from(wanted));
        }
        assert!(
            choose(None, None, None)
                .unwrap_err()
                .to_string()
                .contains("FINETUNE_CACHE")
        );
    }

    #[test]
    fn the_same_text_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner/file.toml");
        assert!(write_if_changed(&path, "a").unwrap());
        assert!(!write_if_changed(&path, "a").unwrap());
        assert!(write_if_changed(&path, "b").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "b");
        assert!(!path.with_extension("partial").exists());
    }
}
