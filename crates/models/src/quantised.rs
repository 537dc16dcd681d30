//! Between files and weights in 4 or 8 bits: bitsandbytes' tensors, and what an adapter says of the base under it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::{ModelDir, PackedCode, PackedScales, PackedTensor, write_file};
use decoder::projection_paths;
use quant::codec::{BlockSize, FP4, NESTED_BLOCK, NF4, Scheme};
use quant::{Error, QuantizeConfig, Quantized, QuantizedWeight, ScaleTensors};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Parameters, Projection};

use crate::Source;
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

/// What is put under an adapter that was trained over packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Against {
    /// The packed weights that it was trained over
    Quantized,
    /// The weights from before they were packed
    Dense,
}

/// How a base was quantised: with the base, this gives the weights that an adapter was trained over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantisation {
    /// Scheme, blocks, what was left out.
    pub config: QuantizeConfig,
    /// What the weights were held in before.
    pub dtype: Dtype,
}

impl fmt::Display for Quantisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, block) = (self.config.scheme, self.config.block_size.get());
        let scales = if self.config.double_quant {
            " with packed scales"
        } else {
            ""
        };
        write!(f, "{scheme} weights in blocks of {block}{scales}")
    }
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

    /// How the weights of a model that lies packed on the disk are packed; none if they are dense.
    pub fn of_model(dir: &ModelDir) -> Result<Option<Self>> {
        let (mut found, mut skip_modules) = (None, Vec::new());
        for (path, is_output) in projection_paths(dir.config()) {
            let name = path.join("weight");
            match dir.packed(name.as_str())? {
                Some(packed) => found = found.or(Some(packed)),
                None if is_output => {}
                None => skip_modules.push(path.to_string()),
            }
        }
        let Some(packed) = found else { return Ok(None) };
        let default = QuantizeConfig::default();
        skip_modules.extend(default.skip_modules.iter().cloned());
        Ok(Some(Self {
            config: QuantizeConfig {
                scheme: scheme(packed.code),
                block_size: BlockSize::new(packed.block_size as usize)?,
                double_quant: matches!(packed.scales, PackedScales::Nested { .. }),
                skip_modules,
            },
            dtype: Dtype::of(packed.kind),
        }))
    }

    /// How the base of adapters has to be packed so that it is what they were trained over; none if it is that as it lies
    /// on the disk, or if `against` says otherwise. Says to whoever watches what is done.
    ///
    /// The one rule for merging, exporting, serving and measuring.
    pub fn under(adapters: &[&Path], model: &Source, against: Option<Against>) -> Result<Option<Self>> {
        let mut found: Option<(&Path, Self)> = None;
        for path in adapters {
            let Some(own) = Self::of_adapter(path)? else { continue };
            match &found {
                Some((first, other)) if !other.packs_as(&own) => bail!(
                    "`{}` was trained over {other}, `{}` over {own}\n\
                     hint: load one at a time, or take the dense weights for all: `--against dense`",
                    first.display(),
                    path.display(),
                ),
                Some(_) => {}
                None => found = Some((path, own)),
            }
        }
        let is_packed = model.dir().config().is_quantised();
        match (against, found) {
            (Some(Against::Dense), _) if is_packed => bail!(
                "`--against dense`: model `{}` is in 4 bits, so the dense weights are not there\n\
                 hint: give the model that it was made from as `--model`",
                model.name()
            ),
            (Some(Against::Quantized), None) if !is_packed => bail!(
                "`--against quantized`: the adapter does not say how its base was packed\n\
                 hint: give the 4-bit model that it was trained over as `--model`"
            ),
            (_, None) => Ok(None),
            // Its dequantised weights are the ones; no dense ones are there to be packed.
            (_, Some((path, own))) if is_packed => {
                if let Some(there) = Self::of_model(model.dir())?.filter(|there| !there.packs_as(&own)) {
                    model.events().warn(|| {
                        format!(
                            "adapter `{}` was trained over {own}; model `{}` is in {there}, which is another base",
                            path.display(),
                            model.name()
                        )
                    });
                }
                Ok(None)
            }
            (Some(Against::Dense), Some((path, own))) => {
                model.events().warn(|| format!(
                    "adapter `{}` was trained over {own}; the dense weights are under it, as `--against dense` says",
                    path.display()
                ));
                Ok(None)
            }
            (_, Some((path, own))) => {
                model.events().note(|| format!(
                    "adapter `{}` was trained over {own}: the base is packed in the same way (`--against dense` takes the dense weights)",
                    path.display()
                ));
                Ok(Some(own))
            }
        }
    }

    /// Whether both give the same weights of one model.
    fn packs_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.config, &other.config);
        let set = |config: &QuantizeConfig| config.skip_modules.iter().cloned().collect::<BTreeSet<_>>();
        (a.scheme, a.block_size, a.double_quant, set(a)) == (b.scheme, b.block_size, b.double_quant, set(b))
    }

    /// The packed weight of the module at `at` of a dense model, from its file.
    pub fn projection(
        &self,
        source: &Source,
        at: &ModulePath,
        machine: Machine,
    ) -> tensor_core::Result<Box<dyn Projection>> {
        let place =
            |source: Box<dyn std::error::Error + Send + Sync>| tensor_core::Error::Surgery { at: at.clone(), source };
        let name = at.join("weight");
        let kind = self.dtype.kind(machine.device);
        let weight = source.dir().tensor_as(&source.stored(name.as_str()), kind);
        let weight = weight.map_err(|error| place(error.into()))?.to_device(machine.device);
        let config = &self.config;
        let packed = QuantizedWeight::of(&weight, config.scheme, config.block_size, config.double_quant);
        let packed = packed.map_err(|error| place(error.into()))?;
        Ok(Box::new(Quantized::new(QuantizedWeight {
            kind: machine.kind,
            ..packed
        })))
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
