//! Memories on disk: `memory_config.json`, `memory.safetensors`, a file of rows a projection, and `facts.jsonl`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use checkpoint::{Safetensors, write_file};
use decoder::Decoder;
use memory_tuning::{MemoryBank, MemoryConfig, Placement, Tensors};
use serde_json::{Map, Value, json};

const CONFIG: &str = "memory_config.json";
const TENSORS: &str = "memory.safetensors";

/// Whether the folder holds a memory.
pub fn is_in(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// A memory on disk, checked in itself.
#[derive(Debug)]
pub struct Memories {
    path: PathBuf,
    config: MemoryConfig,
    file: Map<String, Value>,
}

impl Memories {
    /// Opens the memory in the folder `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let place = || format!("`{}`", path.join(CONFIG).display());
        let file: Map<String, Value> =
            serde_json::from_slice(&std::fs::read(path.join(CONFIG)).with_context(place)?).with_context(place)?;
        let version = file.get("version").and_then(Value::as_u64);
        ensure!(
            version == Some(VERSION),
            "{}: wanted version {VERSION}, found {}\nhint: read it with the program that wrote it",
            place(),
            version.map_or_else(|| "none".to_owned(), |version| version.to_string())
        );
        let config = serde_json::from_value(file.get("config").cloned().unwrap_or_default()).with_context(place)?;
        Ok(Self {
            path: path.to_owned(),
            config,
            file,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The options.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// `memory_config.json`.
    pub fn file(&self) -> &Map<String, Value> {
        &self.file
    }

    /// Puts it into a model; what holds the experts, too.
    pub fn place(&self, model: Decoder) -> Result<(Decoder, MemoryBank)> {
        let placement = Placement::new(self.config.clone(), &self.path, read_tensors(&self.path.join(TENSORS))?)?;
        let model = model.map_projections(&mut |at, base| placement.projection(at, base))?;
        Ok((model, placement.finish()?))
    }
}

const VERSION: u64 = 1;

/// Writes the memories of a model that came of the model called `base` into `folder`.
pub fn save(folder: &Path, bank: &MemoryBank, base: &str) -> Result<()> {
    bank.save_rows(folder)?;
    write_tensors(&folder.join(TENSORS), &bank.tensors())?;
    let modules = bank.each(|_, at, experts| json!({"path": at.as_str(), "rows": experts.table.ids().len()}));
    let file = json!({
        "version": VERSION,
        "base_model_name_or_path": base,
        "config": bank.config(),
        "modules": modules,
    });
    write_file(&folder.join(CONFIG), serde_json::to_string_pretty(&file)?.as_bytes())?;
    Ok(())
}

/// Every tensor of a file.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    let file = Safetensors::open(path)?;
    let tensors = file.names().map(|name| Ok((name.to_owned(), file.tensor(name)?)));
    tensors.collect()
}

/// A file of these tensors.
pub fn write_tensors(path: &Path, tensors: &Tensors) -> Result<()> {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    Ok(checkpoint::write_tensors(path, named)?)
}
