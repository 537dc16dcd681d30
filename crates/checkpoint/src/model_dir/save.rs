//! Saving a model as a Hugging Face directory: one tensor in memory at a time, nothing visible before all is written.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use crate::config::ModelConfig;
use crate::finite::finite;
use crate::safetensors::{self, size_in_bytes};
use crate::staged::{StagedDir, refuse_model, write_file};
use crate::{BoxError, Error, Result, TensorInfo, TokenizerFiles, write_safetensors};

/// What happens to a model that lies in the folder already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and saving is an error.
    #[default]
    Refuse,
    /// It is replaced, whatever its form, in one step once the new one is wholly on the disk.
    Replace,
}

/// How a model is saved.
#[derive(Clone, Debug)]
pub struct SaveOptions<'a> {
    /// The tokenizer's files, copied through.
    pub tokenizer: Option<&'a TokenizerFiles>,
    /// The `generation_config.json`, copied through.
    pub generation_config: Option<&'a Map<String, Value>>,
    /// Where the model comes from: `provenance.json`.
    pub provenance: Option<Map<String, Value>>,
    /// The dtype of all floating-point tensors; each keeps its own if none.
    pub dtype: Option<Kind>,
    /// Bytes of tensors in a file before another is begun.
    pub max_shard_size: u64,
    /// What happens to a model in the same place.
    pub existing: Existing,
}

impl Default for SaveOptions<'_> {
    /// Without tokenizer, dtypes kept, files of at most 50 GB as in Transformers 5, nothing replaced.
    fn default() -> Self {
        Self {
            tokenizer: None,
            generation_config: None,
            provenance: None,
            dtype: None,
            max_shard_size: 50_000_000_000,
            existing: Existing::Refuse,
        }
    }
}

/// Saves a model into `folder`; `tensor` makes each tensor when its turn comes, in the order of its shard.
///
/// A tied output layer among `tensors` is left out. Every tensor that the configuration names must be there, in its
/// shape. The folder may exist and hold other files.
pub fn save_model(
    folder: &Path,
    config: &ModelConfig,
    tensors: &[TensorInfo],
    tensor: impl FnMut(&TensorInfo) -> Result<Tensor, BoxError>,
    options: &SaveOptions<'_>,
) -> Result<()> {
    let staged = stage_model(folder, config, tensors, tensor, options)?;
    match options.existing {
        Existing::Refuse => staged.commit(),
        Existing::Replace => staged.commit_over_older(),
    }
}

/// As [`save_model`], up to where the model appears in `folder`: what is written into the staged folder first appears
/// together with it.
pub fn stage_model(
    folder: &Path,
    config: &ModelConfig,
    tensors: &[TensorInfo],
    mut tensor: impl FnMut(&TensorInfo) -> Result<Tensor, BoxError>,
    options: &SaveOptions<'_>,
) -> Result<StagedDir> {
    if options.existing == Existing::Refuse {
        refuse_model(folder)?;
    }
    let tensors = to_write(folder, config, tensors, options.dtype)?;
    let staged = StagedDir::create(folder)?;
    let shards = split(&tensors, options.max_shard_size);
    let mut weight_map = Map::new();
    for (idx, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", idx + 1),
        };
        write_safetensors(&staged.path().join(&name), shard, |info| {
            let value = tensor(info)?.to_kind(info.kind);
            finite(&info.name, &value)?;
            Ok(value)
        })?;
        for info in *shard {
            weight_map.insert(info.name.clone(), json!(name));
        }
    }
    if shards.len() > 1 {
        write_index(staged.path(), &tensors, weight_map)?;
    }
    let config = match kind_of(&tensors) {
        Some(kind) => config.clone().with_dtype(kind),
        None => config.clone(),
    };
    write_file(&staged.path().join("config.json"), config.to_json().as_bytes())?;
    if let Some(generation) = options.generation_config {
        let mut text = python_json::to_string(generation);
        text.push('\n');
        write_file(&staged.path().join("generation_config.json"), text.as_bytes())?;
    }
    if let Some(provenance) = &options.provenance {
        let text = serde_json::to_string_pretty(provenance).map_err(Error::json(folder))? + "\n";
        write_file(&staged.path().join("provenance.json"), text.as_bytes())?;
    }
    if let Some(tokenizer) = options.tokenizer {
        tokenizer.save(staged.path())?;
    }
    Ok(staged)
}

/// The tensors that go into files, in their final dtypes, checked against the configuration.
fn to_write(
    folder: &Path,
    config: &ModelConfig,
    tensors: &[TensorInfo],
    dtype: Option<Kind>,
) -> Result<Vec<TensorInfo>> {
    let given: HashMap<&str, &TensorInfo> = tensors.iter().map(|info| (info.name.as_str(), info)).collect();
    let packed: HashSet<&str> = tensors
        .iter()
        .filter_map(|info| safetensors::state_of(&info.name))
        .collect();
    for (name, wanted) in config.tensors() {
        match given.get(name.as_str()) {
            Some(info) if info.shape == wanted => {}
            // Two 4-bit codes share a byte.
            Some(info) if packed.contains(name.as_str()) && halves(&info.shape, &wanted) => {}
            Some(info) => {
                return Err(Error::Shape {
                    path: folder.to_owned(),
                    name,
                    wanted,
                    found: info.shape.clone(),
                });
            }
            None => {
                return Err(Error::NoTensor {
                    path: folder.to_owned(),
                    name,
                    near: None,
                });
            }
        }
    }
    let tied = |info: &&TensorInfo| config.tie_word_embeddings && info.name == "lm_head.weight";
    let is_float = |kind: Kind| matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double);
    // The scales of packed weights are f32 whatever the weights are.
    let converts = |info: &TensorInfo| is_float(info.kind) && !safetensors::is_part(&info.name);
    let written = tensors.iter().filter(|info| !tied(info)).map(|info| TensorInfo {
        kind: dtype.filter(|_| converts(info)).unwrap_or(info.kind),
        ..info.clone()
    });
    Ok(written.collect())
}

/// Whether `codes` has a byte for every two numbers of `weight`.
fn halves(codes: &[i64], weight: &[i64]) -> bool {
    let count = |shape: &[i64]| shape.iter().product::<i64>() as u64;
    count(codes) == count(weight).div_ceil(2)
}

/// Runs of tensors of at most `limit` bytes each; a larger tensor is alone.
fn split(tensors: &[TensorInfo], limit: u64) -> Vec<&[TensorInfo]> {
    let mut shards = Vec::new();
    let (mut begin, mut size) = (0, 0);
    for (idx, info) in tensors.iter().enumerate() {
        let own = size_in_bytes(info);
        if idx > begin && size + own > limit {
            shards.push(&tensors[begin..idx]);
            (begin, size) = (idx, 0);
        }
        size += own;
    }
    shards.push(&tensors[begin..]);
    shards
}

fn write_index(folder: &Path, tensors: &[TensorInfo], mut weight_map: Map<String, Value>) -> Result<()> {
    weight_map.sort_keys();
    let parameters: i64 = tensors.iter().map(|info| info.shape.iter().product::<i64>()).sum();
    let size: u64 = tensors.iter().map(size_in_bytes).sum();
    let index = json!({
        "metadata": {"total_parameters": parameters, "total_size": size},
        "weight_map": weight_map,
    });
    let mut text = python_json::to_string(&index);
    text.push('\n');
    write_file(&folder.join("model.safetensors.index.json"), text.as_bytes())
}

/// The dtype of all tensors that are not packed, if they have one in common.
fn kind_of(tensors: &[TensorInfo]) -> Option<Kind> {
    let packed: HashSet<&str> = tensors
        .iter()
        .filter_map(|info| safetensors::state_of(&info.name))
        .collect();
    let is_plain = |info: &&TensorInfo| !packed.contains(info.name.as_str()) && !safetensors::is_part(&info.name);
    let mut kinds = tensors.iter().filter(is_plain).map(|info| info.kind);
    let kind = kinds.next()?;
    kinds.all(|other| other == kind).then_some(kind)
}
