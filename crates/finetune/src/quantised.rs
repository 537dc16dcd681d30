//! Between files and weights in 4 or 8 bits: bitsandbytes' tensors, and what an adapter says of the base under it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use checkpoint::{ModelDir, PackedCode, PackedScales, PackedTensor, write_file};
use quant::codec::{BlockSize, FP4, NESTED_BLOCK, NF4, Scheme};
use quant::{Error, QuantizeConfig, Quantized, QuantizedWeight, ScaleTensors};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Parameters, Projection};

use crate::machine::{Dtype, Machine};

/// The projection over the packed weight of the module at `at`; none if the files hold a dense one.
pub fn projection(dir: &ModelDir, at: &ModulePath, machine: Machine) -> decoder::Result<Option<Box<dyn Projection>>> {
    let Some(packed) = dir.packed(at.join("weight").as_str())? else {
        return Ok(None);
    };
    let weight = from_file(&packed, machine).map_err(|error| error.at(at))?;
    Ok(Some(Box::new(Quantized::new(weight))))
}

/// What the codes of a file are.
pub fn scheme(code: PackedCode) -> Scheme {
    match code {
        PackedCode::Nf4 => Scheme::Nf4,
        PackedCode::Fp4 => Scheme::Fp4,
        PackedCode::Int8 => Scheme::Int8,
    }
}

/// A weight as a file holds it, as a weight to compute with.
fn from_file(packed: &PackedTensor, machine: Machine) -> quant::Result<QuantizedWeight> {
    let wrong = |what, wanted: &str, found: String| Error::Parts {
        what,
        wanted: wanted.into(),
        found,
    };
    let scheme = scheme(packed.code);
    let levels = match packed.code {
        PackedCode::Nf4 => Some(&NF4),
        PackedCode::Fp4 => Some(&FP4),
        PackedCode::Int8 => None,
    };
    if let (Some(theirs), Some(ours)) = (&packed.levels, levels)
        && !theirs.equal(&Tensor::from_slice(ours))
    {
        return Err(wrong("`quant_map`", "the sixteen levels of its type", "others".into()));
    }
    let &[out, input] = packed.shape.as_slice() else {
        return Err(wrong(
            "a packed weight",
            "two dimensions",
            format!("{:?}", packed.shape),
        ));
    };
    let here = |tensor: &Tensor| tensor.to_device(machine.device).contiguous();
    let scales = match &packed.scales {
        PackedScales::Plain(absmax) => ScaleTensors::Plain(here(absmax)),
        PackedScales::Nested { block_size, .. } if *block_size != NESTED_BLOCK as i64 => {
            return Err(wrong("`nested_blocksize`", "256", block_size.to_string()));
        }
        PackedScales::Nested {
            codes,
            absmax,
            levels,
            offset,
            ..
        } => ScaleTensors::Nested {
            codes: here(codes),
            absmax: here(absmax),
            levels: here(levels),
            offset: *offset,
        },
    };
    let weight = QuantizedWeight {
        scheme,
        block: BlockSize::new(packed.block_size as usize)?,
        shape: [out, input],
        kind: machine.kind,
        codes: here(&packed.codes),
        scales,
    };
    weight.checked()
}

/// A packed weight as a file holds it; an error for int4, which no format has.
pub fn to_file(weight: &QuantizedWeight) -> quant::Result<PackedTensor> {
    let (code, levels) = match weight.scheme {
        Scheme::Nf4 => (PackedCode::Nf4, Some(Tensor::from_slice(&NF4))),
        Scheme::Fp4 => (PackedCode::Fp4, Some(Tensor::from_slice(&FP4))),
        Scheme::Int8 => (PackedCode::Int8, None),
        Scheme::Int4 => {
            return Err(Error::Parts {
                what: "a weight for a file",
                wanted: "nf4, fp4 or int8".into(),
                found: weight.scheme.to_string(),
            });
        }
    };
    let here = |tensor: &Tensor| tensor.to_device(tch::Device::Cpu);
    Ok(PackedTensor {
        code,
        block_size: weight.block.get() as i64,
        kind: weight.kind,
        shape: weight.shape.to_vec(),
        codes: here(&weight.codes),
        levels,
        scales: match &weight.scales {
            ScaleTensors::Plain(absmax) => PackedScales::Plain(here(absmax)),
            ScaleTensors::Nested {
                codes,
                absmax,
                levels,
                offset,
            } => PackedScales::Nested {
                codes: here(codes),
                absmax: here(absmax),
                levels: here(levels),
                block_size: NESTED_BLOCK as i64,
                offset: *offset,
            },
        },
    })
}

/// How many numbers a model holds and how many of them train; two that share a byte are two.
pub fn num_params(model: &impl Parameters) -> (usize, usize) {
    let (mut all, mut trainable) = (0, 0);
    model.visit(&ModulePath::root(), &mut |at, param| {
        let count = param.value().numel();
        all += match (param.value().kind(), at.name()) {
            (_, "absmax" | "nested_absmax") => 0,
            (Kind::Uint8, _) => 2 * count,
            _ => count,
        };
        trainable += if param.is_trainable() { count } else { 0 };
    });
    (all, trainable)
}

/// Beside an adapter that was trained over a quantised base: how that base came to be.
const FILE: &str = "quantization.json";

/// How a base was quantised: with the base, this gives the weights that an adapter was trained over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantisation {
    /// Scheme, blocks, what was left out.
    pub config: QuantizeConfig,
    /// What the weights were held in before.
    pub dtype: Dtype,
}

impl Quantisation {
    /// What the adapter in `folder` says; none if it says nothing.
    pub fn of_adapter(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let place = || format!("`{}`", path.display());
        let found: Self = serde_json::from_slice(&std::fs::read(&path).with_context(place)?).with_context(place)?;
        ensure!(
            found.dtype != Dtype::Auto,
            "{}: `dtype`: wanted f32 or bf16, found auto",
            place()
        );
        Ok(Some(found))
    }

    /// Writes it beside an adapter.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(write_file(&folder.join(FILE), text.as_bytes())?)
    }

    /// What `weight` became: the dequantised matrix in f32.
    pub fn applied(&self, weight: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        let weight = weight.to_kind(self.dtype.kind(weight.device()));
        let packed = QuantizedWeight::of(&weight, config.scheme, config.block_size, config.double_quant)?;
        Ok(packed.dequantise(Kind::Float))
    }
}

/// Sums for a relative root mean square error: `√(Σ (x - x̂)² / Σ x²)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    squares: f64,
    numbers: f64,
}

impl Lost {
    /// Of `found` in the place of `wanted`.
    pub fn between(wanted: &Tensor, found: &Tensor) -> Self {
        let wanted = wanted.to_kind(Kind::Double);
        let off = &wanted - found.to_kind(Kind::Double);
        let sum = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]);
        Self {
            squares: sum(&off),
            numbers: sum(&wanted),
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            squares: self.squares + other.squares,
            numbers: self.numbers + other.numbers,
        }
    }

    /// The error; 0 where there was nothing to lose.
    pub fn relative(self) -> f64 {
        if self.numbers > 0.0 {
            (self.squares / self.numbers).sqrt()
        } else {
            0.0
        }
    }
}
