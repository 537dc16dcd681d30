//! Weights in 4 or 8 bits as bitsandbytes stores them: one tensor in several entries of a file.
//!
//! A weight `W` of n numbers in blocks: `W` holds the codes (u8 `[n/2, 1]`, the even element in the high nibble; i8 for 8
//! bits), `W.absmax` the blocks' scales, `W.quant_map` what a code stands for, `W.quant_state.bitsandbytes__nf4` the rest as
//! JSON in bytes. Nested, `W.absmax` holds 8-bit codes itself, `W.nested_absmax` and `W.nested_quant_map` their scales
//! and levels, and `nested_offset` in the JSON is added. `x̂ = quant_map[code] · absmax`.
//!
//! bitsandbytes has no 8-bit form of this kind; `W.quant_state.int8` is this program's own: `x̂ = code · absmax / 127`.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use tensor_core::blob;

use super::{Safetensors, TensorInfo};
use crate::{Error, Result};

/// What the codes of a packed weight are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackedCode {
    /// bitsandbytes' `nf4`.
    Nf4,
    /// bitsandbytes' `fp4`.
    Fp4,
    /// Whole numbers from -127 to 127.
    Int8,
}

impl PackedCode {
    /// `nf4`, `fp4` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Int8 => "int8",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Nf4 => ".quant_state.bitsandbytes__nf4",
            Self::Fp4 => ".quant_state.bitsandbytes__fp4",
            Self::Int8 => ".quant_state.int8",
        }
    }
}

/// A packed weight's scalars: the JSON of its quantisation state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    code: PackedCode,
    block_size: i64,
    kind: Kind,
    shape: Vec<i64>,
    nested: Option<(i64, f64)>,
}

/// A weight in 4 or 8 bits as a file stores it.
#[derive(Debug)]
pub struct PackedTensor {
    /// What the codes are.
    pub code: PackedCode,
    /// Numbers that share a scale.
    pub block_size: i64,
    /// The dtype of the weight before.
    pub kind: Kind,
    /// Its shape.
    pub shape: Vec<i64>,
    /// u8 `[n/2, 1]` rounded up, or i8 of the weight's shape.
    pub codes: Tensor,
    /// What a 4-bit code stands for: f32 `[16]`; not for int8.
    pub levels: Option<Tensor>,
    /// The blocks' scales.
    pub scales: PackedScales,
}

impl PackedTensor {
    /// Bytes of its codes, levels and scales.
    pub fn num_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        let scales = match &self.scales {
            PackedScales::Plain(absmax) => bytes(absmax),
            PackedScales::Nested {
                codes, absmax, levels, ..
            } => bytes(codes) + bytes(absmax) + bytes(levels),
        };
        bytes(&self.codes) + self.levels.as_ref().map_or(0, bytes) + scales
    }
}

/// The scales of a packed weight's blocks.
#[derive(Debug)]
pub enum PackedScales {
    /// f32, one a block.
    Plain(Tensor),
    /// In 8 bits.
    Nested {
        /// u8, one a block.
        codes: Tensor,
        /// f32, one for `block_size` scales.
        absmax: Tensor,
        /// f32 `[256]`.
        levels: Tensor,
        /// Scales that share one.
        block_size: i64,
        /// What is added.
        offset: f64,
    },
}

/// The entries that belong to packed weights: the weights' states by name, and every other entry's name.
pub(super) fn find(file: &Safetensors) -> Result<(BTreeMap<String, State>, Vec<String>)> {
    let (mut states, mut parts) = (BTreeMap::new(), Vec::new());
    for code in [PackedCode::Nf4, PackedCode::Fp4, PackedCode::Int8] {
        let names = file.entries.keys().filter_map(|name| name.strip_suffix(code.suffix()));
        for name in names {
            states.insert(name.to_owned(), State::read(file, name, code)?);
        }
    }
    for name in states.keys() {
        let own = file.entries.range(format!("{name}.")..format!("{name}/"));
        parts.extend(own.map(|(part, _)| part.clone()));
    }
    Ok((states, parts))
}

impl State {
    fn read(file: &Safetensors, name: &str, code: PackedCode) -> Result<Self> {
        let at = format!("{name}{}", code.suffix());
        let broken = |wanted: &str, found: String| broken(&file.path, &at, wanted, found);
        let bytes = file.stored(&at)?;
        if bytes.kind() != Kind::Uint8 {
            return Err(broken("JSON in bytes", format!("dtype {:?}", bytes.kind())));
        }
        let object: Map<String, Value> = serde_json::from_slice(&blob::to_vec::<u8>(&bytes))
            .map_err(|error| broken("a JSON object", error.to_string()))?;
        let field = |key: &str| object.get(key).filter(|value| !value.is_null());
        let missing = |key: &str| {
            broken(
                &format!("a valid `{key}`"),
                object.get(key).map_or_else(|| "none".to_owned(), ToString::to_string),
            )
        };
        let count = |key: &str| {
            field(key)
                .and_then(Value::as_i64)
                .filter(|count| *count > 0)
                .ok_or_else(|| missing(key))
        };
        let shape: Option<Vec<i64>> = field("shape").and_then(Value::as_array).and_then(|sides| {
            let side = |side: &Value| side.as_i64().filter(|side| *side >= 0);
            sides.iter().map(side).collect()
        });
        let kind = field("dtype").and_then(Value::as_str).and_then(kind_of);
        let nested = match field("nested_offset").and_then(Value::as_f64) {
            Some(offset) => Some((count("nested_blocksize")?, offset)),
            None => None,
        };
        if field("quant_type").and_then(Value::as_str) != Some(code.name()) {
            return Err(missing("quant_type"));
        }
        let state = Self {
            code,
            block_size: count("blocksize")?,
            kind: kind.ok_or_else(|| missing("dtype"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
            nested,
        };
        state.check(file, name)?;
        Ok(state)
    }

    /// Every entry is there with the size that the state gives it.
    fn check(&self, file: &Safetensors, name: &str) -> Result<()> {
        let numbers = self
            .shape
            .iter()
            .try_fold(1u64, |product, &side| product.checked_mul(side as u64));
        let unheld = || {
            broken(
                &file.path,
                name,
                "a shape that memory can hold",
                format!("{:?}", self.shape),
            )
        };
        let numbers = numbers
            .filter(|&numbers| i64::try_from(numbers).is_ok())
            .ok_or_else(unheld)?;
        let blocks = numbers.div_ceil(self.block_size as u64);
        let mut wanted = match self.code {
            PackedCode::Int8 => vec![("", "I8", numbers)],
            _ => vec![("", "U8", numbers.div_ceil(2)), (".quant_map", "F32", 16)],
        };
        match self.nested {
            None => wanted.push((".absmax", "F32", blocks)),
            Some((size, _)) => wanted.extend([
                (".absmax", "U8", blocks),
                (".nested_absmax", "F32", blocks.div_ceil(size as u64)),
                (".nested_quant_map", "F32", 256),
            ]),
        }
        for (part, dtype, count) in wanted {
            let at = format!("{name}{part}");
            let entry = file.entry(&at)?;
            if entry.dtype != dtype || entry.shape.iter().product::<i64>() as u64 != count {
                let found = format!("{} {:?}", entry.dtype, entry.shape);
                return Err(broken(&file.path, &at, &format!("{count} of {dtype}"), found));
            }
        }
        Ok(())
    }

    pub(super) fn shape(&self) -> &[i64] {
        &self.shape
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The weight of this state, over the mapped file.
    pub(super) fn tensor(&self, file: &Safetensors, name: &str) -> Result<PackedTensor> {
        let part = |part: &str| file.stored(&format!("{name}{part}"));
        let scales = match self.nested {
            None => PackedScales::Plain(part(".absmax")?),
            Some((block_size, offset)) => PackedScales::Nested {
                codes: part(".absmax")?,
                absmax: part(".nested_absmax")?,
                levels: part(".nested_quant_map")?,
                block_size,
                offset,
            },
        };
        Ok(PackedTensor {
            code: self.code,
            block_size: self.block_size,
            kind: self.kind,
            shape: self.shape.clone(),
            codes: part("")?,
            levels: match self.code {
                PackedCode::Int8 => None,
                _ => Some(part(".quant_map")?),
            },
            scales,
        })
    }
}

impl PackedTensor {
    /// The entries of a file that hold this weight under `name`.
    pub fn entries(&self, name: &str) -> Vec<(TensorInfo, Tensor)> {
        let mut entries = Vec::new();
        let mut add = |part: &str, tensor: &Tensor| {
            let info = TensorInfo {
                name: format!("{name}{part}"),
                shape: tensor.size(),
                kind: tensor.kind(),
            };
            entries.push((info, tensor.shallow_clone()));
        };
        add("", &self.codes);
        if let Some(levels) = &self.levels {
            add(".quant_map", levels);
        }
        // In the order in which bitsandbytes puts them together, which is the order of the JSON's keys.
        let dtype = name_of(self.kind);
        let mut state = json!({
            "quant_type": self.code.name(),
            "blocksize": self.block_size,
            "dtype": dtype,
            "shape": self.shape,
        });
        match &self.scales {
            PackedScales::Plain(absmax) => add(".absmax", absmax),
            PackedScales::Nested {
                codes,
                absmax,
                levels,
                block_size,
                offset,
            } => {
                add(".absmax", codes);
                add(".nested_absmax", absmax);
                add(".nested_quant_map", levels);
                state["nested_blocksize"] = json!(block_size);
                state["nested_dtype"] = json!("float32");
                state["nested_offset"] = json!(offset);
            }
        }
        let bytes = python_json::to_line(&state);
        add(self.code.suffix(), &Tensor::from_slice(bytes.as_bytes()));
        entries
    }

    /// The dense weight on the CPU, in dtype `kind`.
    pub fn dequantise(&self, kind: Kind) -> Tensor {
        let numbers: i64 = self.shape.iter().product();
        let mut dense = Tensor::zeros([numbers], (Kind::Float, Device::Cpu));
        let scales = self.scales.to_vec();
        let block = self.block_size as usize;
        let values = blob::slice_mut::<f32>(&mut dense);
        let blocks = values.par_chunks_mut(block).zip(&scales).enumerate();
        if let Some(levels) = &self.levels {
            let (codes, levels) = (blob::to_vec::<u8>(&self.codes), blob::to_vec::<f32>(levels));
            blocks.for_each(|(idx, (values, scale))| {
                for (within, value) in values.iter_mut().enumerate() {
                    let place = idx * block + within;
                    let pair = codes[place / 2];
                    let code = if place.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
                    *value = levels[code as usize] * scale;
                }
            });
        } else {
            let codes = blob::to_vec::<i8>(&self.codes);
            blocks.for_each(|(idx, (values, scale))| {
                for (value, code) in values.iter_mut().zip(&codes[idx * block..]) {
                    *value = f32::from(*code) * scale * (1.0 / 127.0);
                }
            });
        }
        dense.view(self.shape.as_slice()).to_kind(kind)
    }
}

impl PackedScales {
    /// The floating-point tensors among them.
    pub(crate) fn floats(&self) -> Vec<&Tensor> {
        match self {
            Self::Plain(absmax) => vec![absmax],
            Self::Nested { absmax, levels, .. } => vec![absmax, levels],
        }
    }

    fn to_vec(&self) -> Vec<f32> {
        match self {
            Self::Plain(absmax) => blob::to_vec(absmax),
            Self::Nested {
                codes,
                absmax,
                levels,
                block_size,
                offset,
            } => {
                let (absmax, levels) = (blob::to_vec::<f32>(absmax), blob::to_vec::<f32>(levels));
                let scale = |(idx, code): (usize, &u8)| {
                    levels[*code as usize] * absmax[idx / *block_size as usize] + *offset as f32
                };
                blob::to_vec::<u8>(codes).iter().enumerate().map(scale).collect()
            }
        }
    }
}

/// Whether `name` is an entry of a packed weight beside its codes.
pub(crate) fn is_part(name: &str) -> bool {
    let ends = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
    ends.iter().any(|end| name.ends_with(end)) || state_of(name).is_some()
}

/// The weight whose quantisation state the entry `name` holds.
pub(crate) fn state_of(name: &str) -> Option<&str> {
    [PackedCode::Nf4, PackedCode::Fp4, PackedCode::Int8]
        .into_iter()
        .find_map(|code| name.strip_suffix(code.suffix()))
}

fn kind_of(name: &str) -> Option<Kind> {
    match name {
        "float32" => Some(Kind::Float),
        "bfloat16" => Some(Kind::BFloat16),
        "float16" => Some(Kind::Half),
        _ => None,
    }
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

fn broken(path: &Path, at: &str, wanted: &str, found: String) -> Error {
    Error::Broken {
        path: path.to_owned(),
        format: "packed weight",
        at: format!("tensor `{at}`"),
        wanted: wanted.to_owned(),
        found,
    }
}
