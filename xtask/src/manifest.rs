//! What can be fetched: packages of a registry and the entries made from their members, all pinned (`manifest.toml`).

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The pinned list, compiled in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    #[serde(rename = "package")]
    packages: BTreeMap<String, Package>,
    #[serde(rename = "entry")]
    pub(crate) entries: Vec<Entry>,
}

/// One archive of a registry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    pub(crate) registry: Registry,
    pub(crate) name: String,
    pub(crate) version: String,
    /// The archive's file name, as the registry gives it.
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    /// The platform to ask pip for; an archive without one serves every platform.
    pub(crate) platform: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Registry {
    Pypi,
    Npm,
}

/// A model or a data set, by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) licence: String,
    pub(crate) about: String,
    /// What is to be told to whoever fetches it.
    pub(crate) note: Option<String>,
    pub(crate) files: Vec<Target>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Model,
    Data,
}

/// A file (or, ending in `/`, a folder) of an entry, and the members that it is joined from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) to: String,
    from: Vec<String>,
    pub(crate) sha256: Option<String>,
}

impl Manifest {
    /// The list that this command was built with.
    pub(crate) fn compiled_in() -> Result<Self> {
        toml::from_str(include_str!("../manifest.toml")).context("xtask/manifest.toml")
    }

    pub(crate) fn package(&self, id: &str) -> Result<&Package> {
        self.packages
            .get(id)
            .with_context(|| format!("xtask/manifest.toml has no package `{id}`"))
    }

    /// The entry of that name; the error says which names are near.
    pub(crate) fn entry(&self, name: &str) -> Result<&Entry> {
        if let Some(entry) = self.entries.iter().find(|entry| entry.name == name) {
            return Ok(entry);
        }
        let near = self.entries.iter().map(|entry| entry.name.as_str());
        let near: Vec<&str> = near
            .filter(|known| known.contains(name) || name.contains(known))
            .collect();
        let hint = if near.is_empty() {
            "`cargo xtask fetch --list` shows the names".into()
        } else {
            format!("did you mean `{}`?", near.join("`, `"))
        };
        bail!("nothing is called `{name}`\nhint: {hint}")
    }

    /// The packages that an entry is made from, each once, in order.
    pub(crate) fn packages_of<'a>(&'a self, entry: &'a Entry) -> Result<Vec<(&'a str, &'a Package)>> {
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
    pub(crate) fn shared(&self, id: &str) -> bool {
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

impl Target {
    /// The members that this file is joined from, in order: package and path inside it.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Result<(&str, &str)>> {
        let split = |part: &'_ String| -> Result<(usize, usize)> {
            let colon = part
                .find(':')
                .with_context(|| format!("xtask/manifest.toml: `{part}` is not `package:member`"))?;
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
