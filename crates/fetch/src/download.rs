//! One archive from a registry into the cache: by pip or npm, whole and with the pinned hash, or not at all.

use crate::manifest::Package;
use crate::place::Cache;
use crate::tools::Tools;
use crate::transfer;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What becomes of downloaded archives once they are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wheels {
    /// They stay in the store.
    Keep,
    /// They are deleted.
    Delete,
}

impl Wheels {
    /// Kept if `asked`, else deleted.
    pub fn kept_if(asked: bool) -> Self {
        if asked { Self::Keep } else { Self::Delete }
    }

    /// Removes an archive that is no longer needed, unless it shall be kept.
    pub fn after_unpacking(self, archive: &Path) -> Result<()> {
        match self {
            Self::Keep => Ok(()),
            Self::Delete => fs::remove_file(archive).with_context(|| format!("cannot remove `{}`", archive.display())),
        }
    }
}

/// The archive of `package` in the cache, fetched if it is not there. A file that is there and has the hash is never
/// fetched again, and one that was broken off goes on where it stopped.
pub fn archive(package: &Package, cache: &Cache, tools: &Tools) -> Result<PathBuf> {
    let path = cache.wheels().join(&package.file);
    if path.is_file() {
        match verify(&path, &package.sha256) {
            Ok(()) => return Ok(path),
            Err(error) => cache.note(&format!("{error:#}; it is fetched again")),
        }
    }
    let aside = cache.wheels().join(format!("{}.partial", package.file));
    sweep(&aside, package)?;
    let what = format!("{} {}", package.name, package.version);
    let watch = cache.watch(&format!("fetching {what}"), &aside, package.bytes);
    transfer::fetch(package, cache, tools, &aside).with_context(|| format!("{what} could not be fetched"))?;
    let fetched = aside.join(&package.file);
    ensure!(
        fetched.is_file(),
        "{what}: `{}` was wanted, but the registry gave {}",
        package.file,
        listing(&aside),
    );
    verify(&fetched, &package.sha256).context(what)?;
    fs::rename(&fetched, &path).with_context(|| format!("cannot write `{}`", path.display()))?;
    fs::remove_dir_all(&aside).with_context(|| format!("cannot remove `{}`", aside.display()))?;
    watch.done();
    Ok(path)
}

/// Makes the folder that a transfer writes into, and leaves in it only what a transfer can go on with.
fn sweep(aside: &Path, package: &Package) -> Result<()> {
    let place = || format!("cannot make `{}`", aside.display());
    fs::create_dir_all(aside).with_context(place)?;
    for entry in fs::read_dir(aside).with_context(place)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).with_context(place)?;
        } else if path != aside.join(transfer::part(package)) {
            fs::remove_file(&path).with_context(place)?;
        }
    }
    Ok(())
}

/// Compares a file's hash with the wanted one; a file with another hash is deleted, and the error says both.
pub fn verify(path: &Path, wanted: &str) -> Result<()> {
    let found = sha256(path)?;
    if found != wanted {
        fs::remove_file(path).with_context(|| format!("cannot remove `{}`", path.display()))?;
        bail!(
            "`{}` is not the pinned file and was deleted\n  wanted sha256 {wanted}\n  found  sha256 {found}",
            path.display()
        );
    }
    Ok(())
}

/// The SHA-256 of a file, in hexadecimal digits.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        }
    }
    let mut text = String::with_capacity(64);
    for byte in hasher.finalize() {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

fn listing(folder: &Path) -> String {
    let names = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| format!("`{}`", entry.file_name().display()));
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        "nothing".into()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Registry;
    use std::os::unix::fs::PermissionsExt;

    /// A folder with a `python3` that answers `-m pip …` by running `script` in the transfer's folder.
    fn fake_pip(script: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("python3");
        let text = format!("#!/bin/sh\n[ \"$3\" = --version ] && exit 0\n[ \"$1\" = -c ] && exit 3\n{script}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn package(sha256: &str) -> Package {
        Package {
            registry: Registry::Pypi,
            name: "thing".into(),
            version: "1.0".into(),
            file: "thing-1.0-py3-none-any.whl".into(),
            bytes: 5,
            sha256: sha256.into(),
            platform: None,
        }
    }

    // `printf hello | sha256sum`.
    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_finished_file_is_never_fetched_again() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path());
        let once = fake_pip("[ -e ../fetched ] && exit 1; : > ../fetched; printf hello > thing-1.0-py3-none-any.whl");
        let tools = Tools::on(once.path());
        let first = archive(&package(HELLO), &cache, &tools).unwrap();
        let second = archive(&package(HELLO), &cache, &tools).unwrap();
        assert_eq!(first, second);
        assert_eq!(fs::read(first).unwrap(), b"hello");
    }

    #[test]
    fn a_damaged_file_in_the_cache_is_fetched_again() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path());
        fs::create_dir_all(cache.wheels()).unwrap();
        fs::write(cache.wheels().join("thing-1.0-py3-none-any.whl"), "hell").unwrap();
        let pip = fake_pip("printf hello > thing-1.0-py3-none-any.whl");
        let path = archive(&package(HELLO), &cache, &Tools::on(pip.path())).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"hello");
    }

    #[test]
    fn a_wrong_hash_deletes_the_file_and_says_both() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path());
        let pip = fake_pip("printf HELLO > thing-1.0-py3-none-any.whl");
        let error = format!(
            "{:#}",
            archive(&package(HELLO), &cache, &Tools::on(pip.path())).unwrap_err()
        );
        // `printf HELLO | sha256sum`.
        let found = "3733cd977ff8eb18b987357e22ced99f46097f31ecb239e878ae63760e83e4d5";
        assert!(
            error.contains(HELLO) && error.contains(found) && error.contains("thing 1.0"),
            "{error}"
        );
        let left = cache
            .wheels()
            .join("thing-1.0-py3-none-any.whl.partial/thing-1.0-py3-none-any.whl");
        assert!(!left.exists() && !cache.wheels().join("thing-1.0-py3-none-any.whl").exists());
    }

    #[test]
    fn what_pip_said_is_in_the_error() {
        let home = tempfile::tempdir().unwrap();
        let pip = fake_pip("echo 'ERROR: no matching distribution' >&2; exit 1");
        let error = archive(&package(HELLO), &Cache::at(home.path()), &Tools::on(pip.path())).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("thing 1.0") && text.contains("no matching distribution"),
            "{text}"
        );
    }

    #[test]
    fn without_python_the_error_names_the_packages_to_install() {
        let home = tempfile::tempdir().unwrap();
        let error = archive(&package(HELLO), &Cache::at(home.path()), &Tools::default()).unwrap_err();
        assert!(format!("{error:#}").contains("apt-get install python3 python3-pip"));
    }
}
