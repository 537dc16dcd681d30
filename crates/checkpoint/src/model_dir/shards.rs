//! The safetensors of a Hugging Face directory: one file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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
    remarks: Vec<String>,
}

impl Shards {
    /// Opens `model.safetensors`, else every file that `model.safetensors.index.json` names, else all shards there are.
    ///
    /// As in Transformers, a single file goes before an index that does not name it.
    pub(super) fn open(folder: &Path, family: Family) -> Result<Self> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let mut shards = Self {
            files: Vec::new(),
            of: BTreeMap::new(),
            remarks: Vec::new(),
        };
        let is_overlay =
            || weight_map(&index).is_ok_and(|named| named.values().any(|file| file == "model.safetensors"));
        if single.is_file() && !is_overlay() {
            if index.is_file() {
                shards.remarks.push(
                    "it holds two sets of weights: `model.safetensors`, which is taken as in Transformers, and the shards of \
                     `model.safetensors.index.json`, which are not\n\
                     hint: remove the set that does not belong to this model"
                        .into(),
                );
            }
            shards.open_all(&[single], family)?;
            return Ok(shards);
        }
        if !index.is_file() && !shard_names(folder)?.is_empty() {
            let files = whole_set(folder)?;
            shards.open_all(&files, family)?;
            shards.remarks.push(format!(
                "`model.safetensors.index.json` is missing: all {} shards in the folder are read",
                files.len()
            ));
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

    /// Every tensor of these files; an error if two hold one of the same name.
    fn open_all(&mut self, files: &[PathBuf], family: Family) -> Result<()> {
        for (place, path) in files.iter().enumerate() {
            let file = Safetensors::open(path)?;
            for name in file.names() {
                let twice = self.of.insert(plain(name, family), (place, name.to_owned()));
                if let Some((other, other_name)) = twice {
                    return Err(Error::Broken {
                        path: path.clone(),
                        format: "model",
                        at: format!("tensor `{name}`"),
                        wanted: "each tensor once".into(),
                        found: format!("it in `{}` too, as `{other_name}`", files[other].display()),
                    });
                }
            }
            self.files.push(file);
        }
        Ok(())
    }

    /// What is to be said of the files.
    pub(super) fn remarks(&self) -> &[String] {
        &self.remarks
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
        let left: Vec<String> = shard_names(folder)?
            .into_iter()
            .filter(|name| !files.contains(&name.as_str()))
            .map(|name| format!("`{name}`"))
            .collect();
        if !left.is_empty() {
            self.remarks.push(format!(
                "{} not named by `model.safetensors.index.json` and not read\nhint: remove what is left of another model",
                match left.len() {
                    1 => format!("{} is", left[0]),
                    _ => format!("{} are", left.join(", ")),
                }
            ));
        }
        for (name, file) in &map {
            let place = files.binary_search(&file.as_str()).expect("every file is in the list");
            // What stands beside the codes of a packed weight is part of it.
            if safetensors::is_part(name) || self.files[place].is_part(name) {
                continue;
            }
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

/// The files of the form `model-00001-of-00002.safetensors` in a folder, sorted.
fn shard_names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "open"))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| numbers(name).is_some())
        .collect();
    names.sort();
    Ok(names)
}

/// Number and count of a shard's name.
fn numbers(name: &str) -> Option<(usize, usize)> {
    let (number, count) = name
        .strip_prefix("model-")?
        .strip_suffix(".safetensors")?
        .split_once("-of-")?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

/// All shards of a folder without an index; an error that names those that its count lacks.
fn whole_set(folder: &Path) -> Result<Vec<PathBuf>> {
    let names = shard_names(folder)?;
    let counts: Vec<usize> = names.iter().filter_map(|name| Some(numbers(name)?.1)).collect();
    let wanted = counts.first().copied().unwrap_or(0);
    let has = |number: usize| names.iter().any(|name| numbers(name) == Some((number, wanted)));
    let missing: Vec<String> = (1..=wanted)
        .filter(|number| !has(*number))
        .map(|number| format!("`model-{number:05}-of-{wanted:05}.safetensors`"))
        .collect();
    if !missing.is_empty() || counts.iter().any(|count| *count != wanted) {
        let what = match missing.is_empty() {
            true => format!(
                "`model.safetensors.index.json` beside shards of two sets ({})",
                names.join(", ")
            ),
            false => format!(
                "`model.safetensors.index.json`, and {} of {wanted} shards ({}),",
                missing.len(),
                missing.join(", ")
            ),
        };
        return Err(Error::Missing {
            path: folder.to_owned(),
            what,
            hint: "is the download complete?".into(),
        });
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// The files that an index names.
pub(crate) fn shards_of(index: &Path) -> Result<BTreeSet<String>> {
    Ok(weight_map(index)?.into_values().collect())
}

/// Tensor to file, of an index.
fn weight_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let index: Map<String, Value> = python_json::from_slice(&text).map_err(Error::json(path))?;
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
