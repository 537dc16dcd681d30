//! Bottleneck adapters on disk: `adapter_config.json` and `adapter.safetensors`, as AdapterHub lays them out.

use std::path::{Path, PathBuf};

use adapters::{About, AdapterConfig, Placement, adapter_tensors, from_adapter_config, to_adapter_config};
use anyhow::{Context as _, Result};
use checkpoint::{Safetensors, write_file, write_tensors};
use decoder::{Decoder, HeadKind};
use serde_json::{Map, Value};
use tch::Tensor;
use tensor_core::ModulePath;

use crate::peft::labels_of;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter.safetensors";

/// Whether the folder holds such adapters, and not PEFT's.
pub fn is_in(folder: &Path) -> bool {
    let text = std::fs::read(folder.join(CONFIG)).unwrap_or_default();
    let file: Option<Map<String, Value>> = serde_json::from_slice(&text).ok();
    file.is_some_and(|file| !file.contains_key("peft_type") && file.get("config").is_some_and(Value::is_object))
}

/// Adapters on disk, checked in themselves.
#[derive(Debug)]
pub struct Bottlenecks {
    path: PathBuf,
    config: AdapterConfig,
    file: Map<String, Value>,
    tensors: Vec<(String, Tensor)>,
}

impl Bottlenecks {
    /// Opens the adapters in the folder `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let place = || format!("`{}`", path.display());
        let file: Map<String, Value> =
            serde_json::from_slice(&std::fs::read(path.join(CONFIG)).with_context(place)?).with_context(place)?;
        let config = from_adapter_config(&file).with_context(place)?;
        let weights = path.join(WEIGHTS);
        anyhow::ensure!(
            weights.is_file(),
            "{}: wanted `{WEIGHTS}` beside `{CONFIG}`, found none\nhint: a `pytorch_adapter.bin` can run code and is not read; save it as safetensors",
            place()
        );
        let weights = Safetensors::open(&weights)?;
        let tensors = weights
            .names()
            .map(|name| Ok((name.to_owned(), weights.tensor(name)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            path: path.to_owned(),
            config,
            file,
            tensors,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Their options.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// `adapter_config.json`.
    pub fn file(&self) -> &Map<String, Value> {
        &self.file
    }

    /// Their tensors, by their names in the file.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// The classes of the head that they bring; none if they bring no classification head.
    pub fn labels(&self) -> Result<Option<Vec<String>>> {
        labels_of(&self.path, &self.tensors)
    }

    /// Puts them into a model.
    pub fn place(&self, model: Decoder) -> Result<Decoder> {
        let model = match self.labels()? {
            Some(labels) if *model.head_kind() == HeadKind::LanguageModel => {
                model.replace_head(HeadKind::Classification { labels }, 0)?
            }
            _ => model,
        };
        let tensors = self
            .tensors
            .iter()
            .map(|(name, value)| (name.clone(), value.shallow_clone()));
        let placement = Placement::new(self.config.clone(), tensors, model.device());
        let width = model.config().hidden_size;
        let mut model = model.map_sublayers(&mut |at, inner| placement.sublayer(at, inner, width))?;
        let others: Vec<ModulePath> = placement.others().map(ModulePath::from).collect();
        if !others.is_empty() {
            // In f32, as they were trained and saved.
            model = model.train_where(|at, _| others.contains(at))?;
            placement.fill(&model)?;
        }
        placement.finish()?;
        Ok(model)
    }
}

/// Writes the adapters of `model`, which came of the model called `base`, into `folder`.
pub fn save(folder: &Path, config: &AdapterConfig, model: &Decoder, base: &str) -> Result<()> {
    let tensors = adapter_tensors(model);
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_tensors(&folder.join(WEIGHTS), named)?;
    let of = model.config();
    let about = About {
        model_name: base,
        model_class: &of.family.architecture(of.output),
        model_type: of.raw()["model_type"].as_str().unwrap_or_default(),
        hidden_size: of.hidden_size,
    };
    let text = serde_json::to_string_pretty(&to_adapter_config(config, &about))?;
    write_file(&folder.join(CONFIG), text.as_bytes())?;
    Ok(())
}
