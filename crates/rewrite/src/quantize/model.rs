//! A model directory in bitsandbytes' 4 bits: one dense weight in memory at a time.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use checkpoint::{Existing, PackedCode, SaveOptions, TensorInfo};
use models::Source;
use models::machine::Dtype;
use models::quantised::{Lost, to_file};
use quant::codec::Scheme;
use quant::{QuantizeConfig, QuantizedWeight, Quantizing};
use serde_json::{Value, json};
use tch::{Kind, Tensor};
use tensor_core::{ModulePath, device};

/// What packing did to the tensors of one name in all layers.
#[derive(Default)]
struct Cost {
    tensors: usize,
    numbers: usize,
    bytes: usize,
    lost: Lost,
}

/// What is written of a quantised weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Codes and scales, as bitsandbytes has them.
    Packed,
    /// The numbers that they stand for.
    Dense,
}

/// Writes `source`, what stays dense of it in `dtype`, into `folder`; returns what that cost: bytes, and relative root mean
/// square errors.
pub fn quantize(source: &Source, config: &QuantizeConfig, form: Form, dtype: Kind, folder: &Path) -> Result<Value> {
    let (dir, name) = (source.dir(), source.name());
    if dir.config().is_quantised() {
        bail!("model `{name}` is in 4 bits already\nhint: `finetune export --format hf` makes it dense");
    }
    let quantizing = Quantizing::choose(config.clone(), &decoder::projection_paths(dir.config()))?;
    if dir.config().tie_word_embeddings && quantizing.contains(&ModulePath::from("lm_head")) {
        // No file could hold a packed head beside the embedding that it is tied to.
        bail!(
            "`lm_head` of model `{name}` is tied to the embedding, which stays dense\nhint: keep `lm_head` in `--skip-modules`"
        );
    }
    let chosen = |name: &str| {
        let module = name.strip_suffix(".weight").map(ModulePath::from);
        module.filter(|module| quantizing.contains(module))
    };
    let work = source.events().begin("tensors", dir.names().len());
    let (mut infos, mut packed): (Vec<TensorInfo>, HashMap<String, Tensor>) = Default::default();
    let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
    let mut dense = 0;
    for name in dir.names() {
        work.advance(1);
        let info = dir.info(name)?;
        let Some(module) = chosen(name) else {
            dense += info.shape.iter().product::<i64>() as usize * dtype.elt_size_in_bytes();
            infos.push(TensorInfo { kind: dtype, ..info });
            continue;
        };
        let weight = dir.tensor_as(name, dtype)?;
        let made = QuantizedWeight::of(&weight, config.scheme, config.block_size, config.double_quant)
            .with_context(|| format!("`{name}`"))?;
        let cost = costs.entry(module.name().to_owned()).or_default();
        cost.tensors += 1;
        cost.numbers += made.num_numbers();
        cost.bytes += made.num_bytes();
        cost.lost = cost.lost.and(Lost::between(&weight, &made.dequantise(Kind::Float)));
        if form == Form::Dense {
            // Made again when it is written, so that no more than one is in memory.
            infos.push(TensorInfo { kind: dtype, ..info });
            continue;
        }
        for (info, tensor) in to_file(&made)?.entries(name) {
            packed.insert(info.name.clone(), tensor);
            infos.push(info);
        }
        drop((weight, made));
        device::trim_memory();
    }
    drop(work);
    let skip = (config.skip_modules != QuantizeConfig::default().skip_modules).then_some(&*config.skip_modules);
    let code = if config.scheme == Scheme::Fp4 {
        PackedCode::Fp4
    } else {
        PackedCode::Nf4
    };
    let dense_config = dir.config().clone().with_dtype(dtype);
    let written = match form {
        Form::Packed => dense_config.with_4_bits(code, config.double_quant, dtype, skip),
        Form::Dense => dense_config,
    };
    let tensor = |info: &TensorInfo| match packed.get(&info.name) {
        Some(tensor) => Ok(tensor.shallow_clone()),
        None if form == Form::Dense && chosen(&info.name).is_some() => {
            let weight = dir.tensor_as(&info.name, dtype)?;
            let made = QuantizedWeight::of(&weight, config.scheme, config.block_size, config.double_quant);
            Ok(made.map_err(|error| error.to_string())?.dequantise(dtype))
        }
        None => Ok(dir.tensor_as(&info.name, info.kind)?),
    };
    let options = SaveOptions {
        dtype: Some(dtype),
        ..source.options(Existing::Refuse, "quantize")
    };
    checkpoint::save_model(folder, &written, &infos, tensor, &options)?;
    Ok(report(config, dtype, dense, &costs))
}

fn report(config: &QuantizeConfig, dtype: Kind, dense: usize, costs: &BTreeMap<String, Cost>) -> Value {
    let size = dtype.elt_size_in_bytes();
    let kinds: serde_json::Map<String, Value> = costs
        .iter()
        .map(|(name, cost)| {
            let value = json!({
                "tensors": cost.tensors, "numbers": cost.numbers, "bytes_before": cost.numbers * size,
                "bytes": cost.bytes, "relative_rmse": cost.lost.relative(),
            });
            (name.clone(), value)
        })
        .collect();
    let numbers: usize = costs.values().map(|cost| cost.numbers).sum();
    let bytes: usize = costs.values().map(|cost| cost.bytes).sum();
    let lost = costs.values().fold(Lost::default(), |sum, cost| sum.and(cost.lost));
    json!({
        "scheme": config.scheme, "block_size": config.block_size, "double_quant": config.double_quant,
        "dtype": Dtype::of(dtype), "bits_per_packed_number": 8.0 * bytes as f64 / numbers as f64,
        "bytes_before": dense + numbers * size, "bytes": dense + bytes, "bytes_dense": dense,
        "relative_rmse": lost.relative(), "kinds": kinds,
    })
}
