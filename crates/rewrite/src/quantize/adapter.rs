//! An adapter's factors in 8 or 4 bits, for serving: small on disk, and read by `--adapter` as any other.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use checkpoint::{StagedDir, TensorInfo, write_tensors};
use methods::peft::Adapter;
use models::quantised::{Lost, to_file};
use quant::QuantizedWeight;
use quant::codec::{BlockSize, Scheme};
use tch::{Kind, Tensor};

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// What an adapter in fewer bits costs.
#[derive(Debug)]
pub struct AdapterCost {
    /// What became of each module's update, in the adapter's order.
    pub modules: Vec<(String, Lost)>,
    /// Bytes of its tensors before.
    pub bytes_before: usize,
    /// And after.
    pub bytes: usize,
}

impl AdapterCost {
    /// All updates together: a relative root mean square error.
    pub fn relative(&self) -> f64 {
        let all = self.modules.iter().map(|(_, lost)| *lost);
        all.fold(Lost::default(), Lost::and).relative()
    }
}

/// Writes the adapter in `from` into `folder`.
pub fn quantize(from: &Path, scheme: Scheme, block: BlockSize, folder: &Path) -> Result<AdapterCost> {
    let adapter = Adapter::open(from)?;
    if folder.join(CONFIG).exists() {
        return Err(checkpoint::Error::Exists {
            path: folder.to_owned(),
            found: "an adapter".into(),
        }
        .into());
    }
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut read_back: HashMap<&str, Tensor> = HashMap::new();
    let (mut before, mut after) = (0, 0);
    let size = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
    for (name, tensor) in adapter.tensors() {
        before += size(tensor);
        let added = if tensor.dim() == 2 {
            let packed = QuantizedWeight::of(&tensor.to_kind(Kind::Float), scheme, block, false)
                .with_context(|| format!("`{}`: `{name}`", from.display()))?;
            read_back.insert(name, packed.dequantise(Kind::Float));
            to_file(&packed)?.entries(name)
        } else {
            // Magnitudes and norms: few, and each matters.
            vec![(TensorInfo::of(name, tensor), tensor.shallow_clone())]
        };
        for (info, tensor) in added {
            after += size(&tensor);
            tensors.insert(info.name, tensor);
        }
    }
    if read_back.is_empty() {
        bail!("`{}`: the adapter holds no matrix to quantise", from.display());
    }
    let modules = errors(&adapter, &read_back)?;
    write(from, folder, &tensors)?;
    Ok(AdapterCost {
        modules,
        bytes_before: before,
        bytes: after,
    })
}

/// What became of each module's update `B A`, and of matrices that are trained whole, by module.
fn errors(adapter: &Adapter, read_back: &HashMap<&str, Tensor>) -> Result<Vec<(String, Lost)>> {
    let held: HashMap<&str, &Tensor> = adapter
        .tensors()
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut errors = Vec::new();
    for (name, tensor) in adapter.tensors() {
        let module = |end: &str| {
            Some(
                name.strip_suffix(end)?
                    .trim_start_matches("base_model.model.")
                    .to_owned(),
            )
        };
        let pair = [
            (".lora_A.weight", ".lora_B.weight"),
            (".lora_embedding_A", ".lora_embedding_B"),
        ];
        let pair = pair
            .into_iter()
            .find_map(|(first, second)| Some((module(first)?, name.replace(first, second))));
        if let Some((module, second)) = pair {
            let b = held
                .get(second.as_str())
                .with_context(|| format!("`{second}` is missing"))?;
            let update = b.to_kind(Kind::Float).matmul(&tensor.to_kind(Kind::Float));
            let found = read_back[second.as_str()].matmul(&read_back[name.as_str()]);
            errors.push((module, Lost::between(&update, &found)));
        } else if let (false, Some(module), Some(found)) =
            (name.contains("lora_"), module(".weight"), read_back.get(name.as_str()))
        {
            errors.push((module, Lost::between(tensor, found)));
        }
    }
    Ok(errors)
}

/// The tensors as the adapter's weights, everything else of its folder as it is.
fn write(from: &Path, folder: &Path, tensors: &HashMap<String, Tensor>) -> Result<()> {
    let staged = StagedDir::create(folder)?;
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_tensors(&staged.path().join(WEIGHTS), named)?;
    let read = || format!("`{}`", from.display());
    for entry in std::fs::read_dir(from).with_context(read)? {
        let path = entry.with_context(read)?.path();
        let Some(name) = path.file_name().filter(|name| path.is_file() && *name != WEIGHTS) else {
            continue;
        };
        std::fs::copy(&path, staged.path().join(name)).with_context(|| format!("`{}`", path.display()))?;
    }
    staged.commit()?;
    Ok(())
}
