//! The safetensors of a Hugging Face directory: one file, or several with an index.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use crate::config::Family;
use crate::safetensors;
use crate::{Error, PackedTensor, Result, Safetensors, TensorInfo};

/// All tensors of a directory by name, whatever file they are in.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Safetensors>,
    /// Name to file and name in it.
    of: BTreeMap<String, (usize, String)>,
}

impl Shards {
    /// Opens `model.safetensors`, else every file that `model.safetensors.index.json` names.
    pub(super) fn open(folder: &Path, family: Family) -> Result<Self> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let mut shards = Self {
            files: Vec::new(),
            of: BTreeMap::new(),
        };
        if single.is_file() {
            let file = Safetensors::open(&single)?;
            for name in file.names() {
                shards.of.insert(plain(name, family), (0, name.to_owned()));
            }
            shards.files.push(file);
            return Ok(shards);
        }
        if !index.is_file() {
            let pickled =
                folder.join("pytorch_model.bin").is_file() || folder.join("pytorch_model.bin.index.json").is_file();
            let hint = match pickled {
                true => {
                    "`pytorch_model.bin` can run code and is not read: load it in Transformers and `save_pretrained` it"
                }
                false => "the folder has a configuration but no weights; is the download complete?",
            };
            return Err(Error::Missing {
                path: folder.to_owned(),
                what: "`model.safetensors`".into(),
                hint: hint.into(),
            });
        }
        shards.open_indexed(folder, &index, family)?;
        Ok(shards)
    }

    fn open_indexed(&mut self, folder: &Path, index: &Path, family: Family) -> Result<()> {
        let map = weight_map(index)?;
        let mut files: Vec<&str> = map.values().map(String::as_str).collect();
        files.sort_unstable();
        files.dedup();
        let missing: Vec<String> = files
            .iter()
            .filter(|name| !folder.join(name).is_file())
            .map(|name| format!("`{name}`"))
            .collect();
        if !missing.is_empty() {
            return Err(Error::Missing {
                path: folder.to_owned(),
                what: format!("{} of {} shards ({})", missing.len(), files.len(), missing.join(", ")),
                hint: "the index names them; is the download complete?".into(),
            });
        }
        for name in &files {
            self.files.push(Safetensors::open(&folder.join(name))?);
        }
        for (name, file) in &map {
            // What stands beside the codes of a packed weight is part of it.
            if safetensors::is_part(name) {
                continue;
            }
            let place = files.binary_search(&file.as_str()).expect("every file is in the list");
            // Says which tensor is missing in which shard.
            if self.files[place].shape(name).is_none() {
                self.files[place].info(name)?;
            }
            self.of.insert(plain(name, family), (place, name.clone()));
        }
        Ok(())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.of.keys().map(String::as_str)
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[i64]> {
        let (file, stored) = self.of.get(name)?;
        self.files[*file].shape(stored)
    }

    pub(super) fn info(&self, name: &str) -> Option<Result<TensorInfo>> {
        let (file, stored) = self.of.get(name)?;
        Some(self.files[*file].info(stored).map(|info| TensorInfo {
            name: name.to_owned(),
            ..info
        }))
    }

    pub(super) fn tensor(&self, name: &str) -> Option<Result<Tensor>> {
        let (file, stored) = self.of.get(name)?;
        Some(self.files[*file].tensor(stored))
    }

    pub(super) fn tensor_as(&self, name: &str, kind: Kind) -> Option<Result<Tensor>> {
        let (file, stored) = self.of.get(name)?;
        Some(self.files[*file].tensor_as(stored, kind))
    }

    pub(super) fn packed(&self, name: &str) -> Result<Option<PackedTensor>> {
        match self.of.get(name) {
            Some((file, stored)) => self.files[*file].packed(stored),
            None => Ok(None),
        }
    }
}

/// Tensor to file, of an index.
fn weight_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let index: Map<String, Value> = serde_json::from_slice(&text).map_err(Error::json(path))?;
    let wrong = |found: String| Error::Key {
        path: path.to_owned(),
        key: "weight_map".into(),
        wanted: "an object of tensor names and file names in this folder".into(),
        found,
    };
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.filter(|map| !map.is_empty()).ok_or_else(|| wrong("none".into()))?;
    map.iter()
        .map(|(name, file)| match file.as_str() {
            // A path that leaves the folder is no shard's name.
            Some(file) if !file.contains(['/', '\\']) => Ok((name.clone(), file.to_owned())),
            _ => Err(wrong(file.to_string())),
        })
        .collect()
}

/// The text model's name of a tensor: multimodal Gemma files put it under `language_model`.
fn plain(name: &str, family: Family) -> String {
    if family == Family::Gemma3 {
        let rest = name.strip_prefix("language_model.");
        if let Some(rest) = rest.filter(|rest| rest.starts_with("model.") || rest.starts_with("lm_head.")) {
            return rest.to_owned();
        }
        if let Some(rest) = name.strip_prefix("model.language_model.") {
            return format!("model.{rest}");
        }
    }
    name.to_owned()
}
