//! A model to read: a Hugging Face directory, single or sharded, or a GGUF file, behind one view.
//!
//! Tensors go by their Hugging Face names. Safetensors are mapped; GGUF blocks are dequantised one tensor at a time.

mod ends;
mod save;
mod shards;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use crate::config::{ModelConfig, ids_as_json};
use crate::finite;
use crate::gguf::{self, Gguf, Layout};
use crate::safetensors::near;
use crate::{Error, PackedTensor, Result, TensorInfo, TokenizerFiles};
pub use ends::NamedEnds;
use ends::read_generation;
pub use save::{Existing, SaveOptions, save_model, stage_model};
use shards::Shards;
pub(crate) use shards::shards_of;

/// A model on disk, its configuration read and every tensor's shape checked against it.
#[derive(Debug)]
pub struct ModelDir {
    path: PathBuf,
    config: ModelConfig,
    generation_config: Option<Map<String, Value>>,
    /// Both as the files have them.
    as_read: (ModelConfig, Option<Map<String, Value>>),
    end_tokens: Vec<NamedEnds>,
    tokenizer: TokenizerFiles,
    weights: Weights,
    names: Vec<String>,
    unexpected: Vec<String>,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Weights {
    Shards(Shards),
    Gguf {
        file: Gguf,
        /// Hugging Face name to the file's name and what is to be undone.
        of: BTreeMap<String, (String, Layout)>,
    },
}

impl ModelDir {
    /// Opens a Hugging Face directory, a `.gguf` file, or a directory that holds one.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return match path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
                true => Self::open_gguf(path),
                false => Err(Error::Unsupported {
                    path: path.to_owned(),
                    what: "a file that is not `.gguf`".into(),
                    hint: "give the model's directory, or a GGUF file".into(),
                }),
            };
        }
        if path.join("config.json").is_file() {
            return Self::open_folder(path);
        }
        if let Some(file) = gguf_in(path)? {
            Self::open_gguf(&file)
        } else {
            let adapter = path.join("adapter_config.json").is_file();
            let hint = match adapter {
                true => "this is an adapter: give its base as the model, and this folder as the adapter",
                false => "a model is a folder with `config.json`, a `.gguf` file, or a folder with one",
            };
            Err(Error::Missing {
                path: path.to_owned(),
                what: "`config.json`".into(),
                hint: hint.into(),
            })
        }
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let config = ModelConfig::open(&path.join("config.json"))?;
        let generation = path.join("generation_config.json");
        let mut end_tokens = vec![NamedEnds {
            place: "config.json",
            ids: config.eos_token_ids.clone(),
        }];
        let mut generation_config = None;
        if generation.is_file() {
            let (object, ids) = read_generation(&generation)?;
            generation_config = Some(object);
            end_tokens.push(NamedEnds {
                place: "generation_config.json",
                ids,
            });
        }
        let weights = Weights::Shards(Shards::open(path, config.family)?);
        let tokenizer = TokenizerFiles::in_folder(path)?;
        Self::checked(path, config, (generation_config, end_tokens), tokenizer, weights)
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let file = Gguf::open(path)?;
        if let Some(count) = file.count("split.count").filter(|count| *count > 1) {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: format!("a GGUF model split into {count} files"),
                hint: "join them with llama.cpp's `gguf-split --merge`".into(),
            });
        }
        let config = ModelConfig::from_object(path, ::gguf::config_json(&file)?)?;
        let ::gguf::FromMetadata { files, ends, notes } = ::gguf::tokenizer_files(&file)?;
        let mut generation = Map::new();
        if let Some(bos) = config.bos_token_id {
            generation.insert("bos_token_id".into(), json!(bos));
        }
        generation.insert("eos_token_id".into(), ids_as_json(&ends));
        if let Some(pad) = config.pad_token_id {
            generation.insert("pad_token_id".into(), json!(pad));
        }
        let end_tokens = vec![NamedEnds {
            place: "the file's metadata",
            ids: ends,
        }];
        let mut of = BTreeMap::new();
        for name in file.tensors().keys() {
            match gguf::hugging_face(name, &config) {
                Some((ours, layout)) => {
                    of.insert(ours, (name.clone(), layout));
                }
                // Read into the configuration.
                None if name == "rope_freqs.weight" => {}
                None => return Err(left_over(path, name)),
            }
        }
        let named = (Some(generation), end_tokens);
        let model = Self {
            notes,
            ..Self::checked(path, config, named, files.into(), Weights::Gguf { file, of })?
        };
        // A bias or norm that the family does not have would be left out of the sum without a word.
        match model.unexpected.first() {
            Some(name) => Err(left_over(path, name)),
            None => Ok(model),
        }
    }

    fn checked(
        path: &Path,
        config: ModelConfig,
        (generation_config, end_tokens): (Option<Map<String, Value>>, Vec<NamedEnds>),
        tokenizer: TokenizerFiles,
        weights: Weights,
    ) -> Result<Self> {
        let config = config.with_end_tokens(end_tokens.iter().flat_map(|named| named.ids.clone()));
        let mut model = Self {
            path: path.to_owned(),
            as_read: (config.clone(), generation_config.clone()),
            config,
            generation_config,
            end_tokens,
            tokenizer,
            weights,
            names: Vec::new(),
            unexpected: Vec::new(),
            notes: Vec::new(),
        };
        for (name, wanted) in model.config.tensors() {
            let found = model.shape(&name).ok_or_else(|| model.no_tensor(&name))?;
            refuse_codes(path, &model.info(&name)?)?;
            if found != wanted {
                return Err(Error::Shape {
                    path: path.to_owned(),
                    name,
                    wanted,
                    found,
                });
            }
            model.names.push(name);
        }
        let expected: std::collections::HashSet<&str> = model.names.iter().map(String::as_str).collect();
        let tied = model.config.tie_word_embeddings;
        // Buffers that are computed from the configuration; a tied output layer may be written out.
        let known = |name: &str| {
            let buffers = ["rotary_emb.inv_freq", "position_ids", "attention.masked_bias"];
            buffers
                .iter()
                .any(|end| name == *end || name.ends_with(&format!(".{end}")))
                || tied && name == "lm_head.weight"
        };
        let all: Vec<&str> = match &model.weights {
            Weights::Shards(shards) => shards.names().collect(),
            Weights::Gguf { of, .. } => of.keys().map(String::as_str).collect(),
        };
        let left = all.into_iter().filter(|name| !expected.contains(name) && !known(name));
        model.unexpected = left.map(str::to_owned).collect();
        Ok(model)
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration, with the end tokens of the generation configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The `generation_config.json`, or what a GGUF file says of it.
    pub fn generation_config(&self) -> Option<&Map<String, Value>> {
        self.generation_config.as_ref()
    }

    /// The tokenizer's files, made from the metadata if this is a GGUF file.
    pub fn tokenizer(&self) -> &TokenizerFiles {
        &self.tokenizer
    }

    /// Whether the numbers are dequantised ones.
    pub fn is_gguf(&self) -> bool {
        matches!(self.weights, Weights::Gguf { .. })
    }

    /// The names of the model's tensors, in the model's order. A tied output layer is not among them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Tensors that the files hold and this configuration has no use for.
    pub fn unexpected(&self) -> &[String] {
        &self.unexpected
    }

    /// What is doubtful in the files, for whoever uses the model.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the files hold a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// Name, shape and dtype of a tensor; the dtype of a quantised one is Float.
    pub fn info(&self, name: &str) -> Result<TensorInfo> {
        match &self.weights {
            Weights::Shards(shards) => shards.info(name).ok_or_else(|| self.no_tensor(name))?,
            Weights::Gguf { file, of } => {
                let (stored, _) = of.get(name).ok_or_else(|| self.no_tensor(name))?;
                let tensor = file.find(stored)?;
                Ok(TensorInfo {
                    name: name.to_owned(),
                    shape: tensor.shape.clone(),
                    kind: gguf::kind_of(tensor.stored).unwrap_or(Kind::Float),
                })
            }
        }
    }

    /// What whoever uses the model has to know: files that are passed over, tensors that nothing here uses.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = match &self.weights {
            Weights::Shards(shards) => shards.remarks().to_vec(),
            Weights::Gguf { .. } => Vec::new(),
        };
        let is_vision = |name: &&String| {
            self.config.is_of_multimodal && !name.contains("language_model.") && !name.contains("lm_head")
        };
        let (vision, rest): (Vec<&String>, Vec<&String>) = self.unexpected.iter().partition(is_vision);
        if !vision.is_empty() {
            remarks.push(format!(
                "{} tensors of the parts that read pictures are not used: texts alone are read and written here",
                vision.len()
            ));
        }
        if let Some(first) = rest.first() {
            let more = match rest.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            remarks.push(format!(
                "the files hold tensor `{first}`{more}, which `config.json` gives this model no use for: not used, and not written\n\
                 hint: if they belong to the model, its `config.json` is another model's; `finetune inspect` lists them"
            ));
        }
        remarks
    }

    /// The tensor `name` on the CPU in its own dtype; over the mapped file where that can be, so not to be written.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        match &self.weights {
            Weights::Shards(shards) => {
                let tensor = shards.tensor(name).ok_or_else(|| self.no_tensor(name))??;
                finite::read(&self.path, name, tensor, || None)
            }
            Weights::Gguf { .. } => self.tensor_as(name, self.info(name)?.kind),
        }
    }

    /// The tensor `name` on the CPU in dtype `kind`; not to be written.
    pub fn tensor_as(&self, name: &str, kind: Kind) -> Result<Tensor> {
        let tensor = match &self.weights {
            Weights::Shards(shards) => shards.tensor_as(name, kind).ok_or_else(|| self.no_tensor(name))??,
            Weights::Gguf { file, of } => {
                let (stored, layout) = of.get(name).ok_or_else(|| self.no_tensor(name))?;
                file.tensor_in(stored, kind, *layout)?
            }
        };
        finite::read(&self.path, name, tensor, || match &self.weights {
            Weights::Shards(shards) => shards.tensor(name)?.ok(),
            Weights::Gguf { file, of } => (of.get(name)).and_then(|(at, to)| file.tensor_in(at, Kind::Float, *to).ok()),
        })
    }

    /// The weight `name` in 4 bits as bitsandbytes stores it, if that is how it is stored.
    pub fn packed(&self, name: &str) -> Result<Option<PackedTensor>> {
        match &self.weights {
            Weights::Shards(shards) => {
                let packed = shards.packed(name)?;
                if let Some(packed) = &packed {
                    for scales in packed.scales.floats() {
                        drop(finite::read(&self.path, name, scales.shallow_clone(), || None)?);
                    }
                }
                Ok(packed)
            }
            Weights::Gguf { .. } => Ok(None),
        }
    }

    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        match &self.weights {
            Weights::Shards(shards) => shards.shape(name).map(<[i64]>::to_vec),
            Weights::Gguf { file, of } => Some(file.find(&of.get(name)?.0).ok()?.shape.clone()),
        }
    }

    fn no_tensor(&self, name: &str) -> Error {
        let near = match &self.weights {
            Weights::Shards(shards) => near(shards.names(), name),
            Weights::Gguf { of, .. } => near(of.keys().map(String::as_str), name),
        };
        Error::NoTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            near,
        }
    }
}

/// The GGUF file of a folder: `model.gguf`, else the only one.
fn gguf_in(folder: &Path) -> Result<Option<PathBuf>> {
    let usual = folder.join("model.gguf");
    if usual.is_file() {
        return Ok(Some(usual));
    }
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "open"))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")))
        .collect();
    match files.len() {
        0 | 1 => Ok(files.pop()),
        count => Err(Error::Unsupported {
            path: folder.to_owned(),
            what: format!("a folder with {count} GGUF files"),
            hint: "give the path of the one to use".into(),
        }),
    }
}

/// Whole numbers are no weights: they are codes whose scales are missing.
fn refuse_codes(path: &Path, info: &TensorInfo) -> Result<()> {
    if matches!(info.kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double) {
        return Ok(());
    }
    Err(Error::Unsupported {
        path: path.to_owned(),
        what: format!("tensor `{}` of whole numbers ({:?}) without scales beside it", info.name, info.kind),
        hint: "these are the codes of a quantised weight; dequantise the model with the tool that packed it, or take the unquantised one".into(),
    })
}

fn left_over(path: &Path, name: &str) -> Error {
    Error::Unsupported {
        path: path.to_owned(),
        what: format!("tensor `{name}`, which this architecture does not have,"),
        hint: "the file holds another variant of the model than its metadata says".into(),
    }
}
