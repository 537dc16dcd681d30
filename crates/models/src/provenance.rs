//! Where an artefact comes from: `provenance.json` beside a model or an adapter.
//!
//! It names the base by what it is, the hash of its tensors, and by what it was called; so an adapter that is put over
//! another base is told, and a base that was moved or spread over other files is the same one.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use checkpoint::{Digests, cache_dir, write_file};
use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::Source;

/// The file beside an artefact.
pub const FILE: &str = "provenance.json";

/// A model that something was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// What the user called it.
    pub name_or_path: String,
    /// The hub's commit, if it came from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Of its tensors, however they are spread over files: SHA-256, hexadecimal.
    pub tensors_sha256: String,
    /// Of its `config.json`; none of a GGUF file, whose one digest is of all that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_sha256: Option<String>,
}

impl Base {
    /// What `source` is.
    pub fn of(source: &Source) -> Result<Self> {
        let path = source.dir().path();
        let config = path.join("config.json");
        Ok(Self {
            name_or_path: source.name().to_owned(),
            revision: checkpoint::revision_of(path).map(str::to_owned),
            tensors_sha256: digests().of(path)?,
            config_sha256: config.is_file().then(|| file_digest(&config)).transpose()?,
        })
    }

    /// For messages: the name, and the beginning of the hash.
    pub fn shown(&self) -> String {
        format!("`{}` (tensors {})", self.name_or_path, short(&self.tensors_sha256))
    }
}

/// The beginning of a hash, enough to tell two apart.
pub fn short(digest: &str) -> String {
    format!("sha256:{}…", digest.get(..12).unwrap_or(digest))
}

/// The digests of weights, remembered in the cache.
pub fn digests() -> Digests {
    Digests::new(cache_dir().map(|cache| cache.join("digests")))
}

/// The SHA-256 of a file's bytes, hexadecimal.
pub fn file_digest(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("`{}`", path.display()))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut Hashing(&mut hasher)).with_context(|| format!("`{}`", path.display()))?;
    Ok(hexadecimal(&hasher.finalize()))
}

struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes as hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The moment in UTC, as it stands in files.
pub fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// This program, as it stands in files.
pub fn program() -> String {
    format!("finetune {}", env!("CARGO_PKG_VERSION"))
}

/// What stands beside an artefact that `verb` made of `base`.
pub fn made_of(base: &Base, verb: &str) -> Map<String, Value> {
    let made = json!({
        "version": 1,
        "program": program(),
        "verb": verb,
        "date": now(),
        "base": base,
    });
    match made {
        Value::Object(made) => made,
        _ => Map::new(),
    }
}

/// An adapter that is part of what is made.
pub fn adapter(path: &Path) -> Result<Value> {
    Ok(json!({ "path": path.display().to_string(), "tensors_sha256": digests().of(path)? }))
}

/// Writes the file into `folder`.
pub fn write(folder: &Path, provenance: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_string_pretty(provenance)? + "\n";
    Ok(write_file(&folder.join(FILE), text.as_bytes())?)
}

/// The base that the artefact in `folder` was made of; none if nothing is said of it.
pub fn base_of(folder: &Path) -> Result<Option<Base>> {
    let path = folder.join(FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let place = || format!("`{}`", path.display());
    let file: Value = serde_json::from_slice(&std::fs::read(&path).with_context(place)?).with_context(place)?;
    let base = file.get("base").cloned();
    base.map(serde_json::from_value).transpose().with_context(place)
}

/// Says so if the adapter in `folder` was trained over another base than `source`.
pub fn tell_other_base(folder: &Path, source: &Source) -> Result<()> {
    if let Some(text) = other_base(folder, source)? {
        source.events().note(|| text);
    }
    Ok(())
}

fn other_base(folder: &Path, source: &Source) -> Result<Option<String>> {
    let Some(wanted) = base_of(folder)? else {
        return Ok(None);
    };
    let found = source.base()?;
    Ok((wanted.tensors_sha256 != found.tensors_sha256).then(|| {
        format!(
            "warning: adapter `{}` was trained over another base: wanted {}, found {}\n\
             hint: give the base that it was trained over as the model; over other numbers its effect was never measured",
            folder.display(),
            wanted.shown(),
            found.shown()
        )
    }))
}

#[cfg(test)]
mod tests {
    use events::Events;

    use super::*;

    #[test]
    fn an_adapter_over_another_base_is_told_and_one_over_a_moved_base_is_not() {
        let home = tempfile::tempdir().unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/vectors/gguf/tiny");
        let copy = |name: &str| {
            let folder = home.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            for entry in std::fs::read_dir(&tiny).unwrap() {
                let entry = entry.unwrap();
                std::fs::write(folder.join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
            }
            folder
        };
        let open = |path: &Path| Source::open(path.to_str().unwrap(), &Events::none()).unwrap();
        let (own, moved, other) = (open(&tiny), copy("moved"), copy("other"));
        let weights = other.join("model.safetensors");
        let mut bytes = std::fs::read(&weights).unwrap();
        // The last byte of the last number.
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&weights, bytes).unwrap();

        let adapter = home.path().join("adapter");
        std::fs::create_dir(&adapter).unwrap();
        assert_eq!(other_base(&adapter, &open(&other)).unwrap(), None);
        write(&adapter, &made_of(own.base().unwrap(), "train")).unwrap();
        assert_eq!(base_of(&adapter).unwrap().as_ref(), Some(own.base().unwrap()));
        assert_eq!(other_base(&adapter, &own).unwrap(), None);
        assert_eq!(other_base(&adapter, &open(&moved)).unwrap(), None);
        let text = other_base(&adapter, &open(&other)).unwrap().unwrap();
        let (wanted, found) = (own.base().unwrap().shown(), open(&other).base().unwrap().shown());
        assert!(
            text.contains(&wanted) && text.contains(&found) && wanted != found,
            "{text}"
        );
    }
}
