//! PEFT adapters: `adapter_config.json` and `adapter_model.safetensors`, byte for byte as PEFT 0.21 writes them.

mod config;
mod keys;
mod read;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use tensor_core::ModulePath;

use crate::staged::{StagedDir, refuse_model, write_file};
use crate::{Error, Result, Safetensors, write_tensors};
pub use config::{InitLoraWeights, NamesOrPattern, PeftConfig};
pub use keys::PeftPart;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// One tensor to be saved in an adapter.
#[derive(Debug)]
pub struct PeftTensor {
    /// The module that it belongs to, as the model names it.
    pub module: ModulePath,
    /// Which of the module's tensors.
    pub part: PeftPart,
    /// The numbers.
    pub value: Tensor,
}

/// An adapter on disk. Whether its modules are the model's is for its user to check.
#[derive(Debug)]
pub struct PeftAdapter {
    path: PathBuf,
    config: PeftConfig,
    file: Safetensors,
    /// Module and part to the file's key.
    keys: BTreeMap<(ModulePath, PeftPart), String>,
}

impl PeftAdapter {
    /// Opens an adapter's folder; an error if an option is on that nothing here does, or if ranks do not fit.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = PeftConfig::open(&folder.join(CONFIG)).map_err(|error| explain(folder, error))?;
        let weights = folder.join(WEIGHTS);
        if !weights.is_file() {
            let has = |name: &str| folder.join(name).is_file();
            let hint = if has("adapter_model.bin") {
                "`adapter_model.bin` can run code and is not read: load it in PEFT and \
                 `save_pretrained(folder, safe_serialization=True)`"
            } else if has("adapters.safetensors") {
                "`adapters.safetensors` is MLX's, with other names and transposed factors: fuse it there (`mlx_lm.fuse`) and use the \
                 fused model"
            } else if has("adapter_model.safetensors.index.json") {
                "the adapter is split into shards, which PEFT does not read either: load it where it was written and save it in one file"
            } else {
                "the folder has an adapter's configuration but no weights; is the copy complete?"
            };
            return Err(Error::Missing {
                path: folder.to_owned(),
                what: format!("`{WEIGHTS}`"),
                hint: hint.into(),
            });
        }
        let file = Safetensors::open(&weights)?;
        let mut keys = BTreeMap::new();
        for key in file.names() {
            let (named, part) = keys::named(key).ok_or_else(|| Error::Unsupported {
                path: weights.clone(),
                what: format!("tensor `{key}`"),
                hint: "PEFT's names begin with `base_model.model.`; an adapter of another tool is to be merged or converted there".into(),
            })?;
            if let Some(twice) = keys.insert((keys::plain(&named), part), key.to_owned()) {
                return Err(Error::Broken {
                    path: weights,
                    format: "adapter",
                    at: format!("tensor `{key}`"),
                    wanted: "each module's tensor once".into(),
                    found: format!("it as `{twice}` too"),
                });
            }
        }
        let adapter = Self {
            path: folder.to_owned(),
            config,
            file,
            keys,
        };
        adapter.check_pairs()?;
        Ok(adapter)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration.
    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// The modules with a low-rank update, in order.
    pub fn modules(&self) -> impl Iterator<Item = &ModulePath> {
        let is_first = |part: &PeftPart| matches!(part, PeftPart::A | PeftPart::EmbeddingA);
        self.keys
            .keys()
            .filter(move |(_, part)| is_first(part))
            .map(|(module, _)| module)
    }

    /// The modules with a low-rank update: as the model names them, and as the file does.
    pub fn named_modules(&self) -> impl Iterator<Item = (&ModulePath, ModulePath)> {
        let is_first = |part: &PeftPart| matches!(part, PeftPart::A | PeftPart::EmbeddingA);
        self.keys.iter().filter_map(move |((module, part), key)| {
            let (named, _) = is_first(part).then(|| keys::named(key)).flatten()?;
            Some((module, named))
        })
    }

    /// Every tensor's module and part, in order.
    pub fn tensors(&self) -> impl Iterator<Item = (&ModulePath, &PeftPart)> {
        self.keys.keys().map(|(module, part)| (module, part))
    }

    /// The shape of a module's tensor, if there is one.
    pub fn shape(&self, module: &ModulePath, part: &PeftPart) -> Option<&[i64]> {
        let key = self.keys.get(&(module.clone(), part.clone()))?;
        self.file.shape(key)
    }

    /// A module's tensor on the CPU, over the mapped file where that can be, if there is one.
    pub fn tensor(&self, module: &ModulePath, part: &PeftPart) -> Result<Option<Tensor>> {
        match self.keys.get(&(module.clone(), part.clone())) {
            Some(key) => self.file.tensor(key).map(Some),
            None => Ok(None),
        }
    }

    /// The module at `at` as Transformers names it in a multimodal model.
    pub fn wrapped_name(at: &ModulePath) -> ModulePath {
        keys::wrapped(at)
    }

    /// Saves an adapter into `folder`, which may exist and hold other files; an older adapter in it is replaced. A
    /// model in it is an error.
    pub fn save(folder: &Path, config: &PeftConfig, tensors: &[PeftTensor]) -> Result<()> {
        if folder.join("config.json").exists() {
            refuse_model(folder)?;
        }
        let staged = StagedDir::create(folder)?;
        let named: BTreeMap<String, &Tensor> = tensors
            .iter()
            .map(|tensor| (keys::format(&tensor.module, &tensor.part), &tensor.value))
            .collect();
        if named.len() != tensors.len() {
            return Err(Error::Broken {
                path: folder.join(WEIGHTS),
                format: "adapter",
                at: "tensors to be saved".into(),
                wanted: "each module's tensor once".into(),
                found: format!("{} names for {} tensors", named.len(), tensors.len()),
            });
        }
        let named = named.iter().map(|(name, value)| (name.as_str(), *value));
        write_tensors(&staged.path().join(WEIGHTS), named)?;
        write_file(&staged.path().join(CONFIG), config.to_json().as_bytes())?;
        staged.commit_over_older()
    }

    /// Both factors of every update, with one rank between them.
    fn check_pairs(&self) -> Result<()> {
        for ((module, part), key) in &self.keys {
            let other = match part {
                PeftPart::A => PeftPart::B,
                PeftPart::B => PeftPart::A,
                PeftPart::EmbeddingA => PeftPart::EmbeddingB,
                PeftPart::EmbeddingB => PeftPart::EmbeddingA,
                _ => continue,
            };
            let path = self.file.path().to_owned();
            let Some(other_key) = self.keys.get(&(module.clone(), other)) else {
                return Err(Error::NoTensor {
                    path,
                    name: keys::format(module, part).replace("_A", "_*").replace("_B", "_*"),
                    near: Some(key.clone()),
                });
            };
            let (own, other) = (
                self.file.shape(key).unwrap_or_default(),
                self.file.shape(other_key).unwrap_or_default(),
            );
            let is_first = matches!(part, PeftPart::A | PeftPart::EmbeddingA);
            let fits = own.len() == 2 && other.len() == 2 && (!is_first || own[0] == other[1]);
            if !fits {
                return Err(Error::Shape {
                    path,
                    name: other_key.clone(),
                    wanted: vec![other.first().copied().unwrap_or(0), own.first().copied().unwrap_or(0)],
                    found: other.to_vec(),
                });
            }
            let kind = self.file.info(key)?.kind;
            if !matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double) {
                return Err(Error::Unsupported {
                    path,
                    what: format!("dtype {kind:?} of tensor `{key}`"),
                    hint: "floating-point factors are".into(),
                });
            }
        }
        Ok(())
    }
}

/// Says where an adapter may lie when there is no configuration.
fn explain(folder: &Path, error: Error) -> Error {
    if folder.join(CONFIG).exists() || !folder.is_dir() {
        return error;
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut below: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(CONFIG).is_file())
        .map(|path| format!("`{}`", path.display()))
        .collect();
    below.sort();
    let hint = match below.is_empty() {
        true => "an adapter is a folder with this file and `adapter_model.safetensors`".to_owned(),
        false => format!("there is one in {}", below.join(", ")),
    };
    Error::Missing {
        path: folder.to_owned(),
        what: format!("`{CONFIG}`"),
        hint,
    }
}
