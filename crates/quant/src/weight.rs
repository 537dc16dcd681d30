//! A quantised matrix as tensors: codes, scales, shape; packed and read back on the CPU, read back anywhere.
//!
//! Shapes: n numbers of the matrix `[out, in]`, b blocks.

use half::bf16;
use tch::{Device, Kind, Tensor};
use tensor_core::blob;
use tensor_core::parallel::{self, Shared};

use crate::codec::{self, BlockSize, CHUNK, DoubleQuant, DynamicMap, InstructionSet, Number, Scales, Scheme};
use crate::{Error, Result};

/// The codes of a matrix with what turns them into numbers again.
#[derive(Debug)]
pub struct QuantizedWeight {
    /// Which levels.
    pub scheme: Scheme,
    /// Numbers that share a scale.
    pub block: BlockSize,
    /// `[out, in]`.
    pub shape: [i64; 2],
    /// The dtype of the matrix that was quantised, and of what it is merged into.
    pub kind: Kind,
    /// `[n / 2, 1]` u8, rounded up, for 4 bits; `[out, in]` i8 for 8.
    pub codes: Tensor,
    /// The blocks' scales.
    pub scales: ScaleTensors,
}

/// The scales of a matrix's blocks.
#[derive(Debug)]
pub enum ScaleTensors {
    /// `[b]` f32.
    Plain(Tensor),
    /// In 8 bits, less their mean.
    Nested {
        /// `[b]` u8
        codes: Tensor,
        /// `[b / 256]` f32, rounded up
        absmax: Tensor,
        /// `[256]` f32
        levels: Tensor,
        /// The mean.
        offset: f64,
    },
}

impl QuantizedWeight {
    /// Of `weight` `[out, in]` in f32 or bf16, wherever it lies; the result lies there too.
    ///
    /// Errors: another dtype or shape; numbers that are not finite.
    pub fn of(weight: &Tensor, scheme: Scheme, block: BlockSize, double_quant: bool) -> Result<Self> {
        let wrong = |wanted: &str, found: String| Error::Parts {
            what: "a weight to quantise",
            wanted: wanted.into(),
            found,
        };
        let size = weight.size();
        let &[out, input] = size.as_slice() else {
            return Err(wrong("two dimensions", format!("{size:?}")));
        };
        let (device, kind) = (weight.device(), weight.kind());
        let values = weight.detach().to_device(Device::Cpu).contiguous();
        let (codes, absmax) = match kind {
            Kind::Float => pack::<f32>(&values, scheme, block)?,
            Kind::BFloat16 => pack::<bf16>(&values, scheme, block)?,
            other => return Err(wrong("f32 or bf16", format!("{other:?}"))),
        };
        let codes = if scheme == Scheme::Int8 {
            codes.view_dtype(Kind::Int8).view([out, input])
        } else {
            codes.view([-1, 1])
        };
        let scales = if double_quant {
            let nested = DoubleQuant::of(&absmax);
            ScaleTensors::Nested {
                codes: Tensor::from_slice(&nested.codes).to_device(device),
                absmax: Tensor::from_slice(&nested.absmax).to_device(device),
                levels: Tensor::from_slice(DynamicMap::signed().levels()).to_device(device),
                offset: f64::from(nested.offset),
            }
        } else {
            ScaleTensors::Plain(Tensor::from_slice(&absmax).to_device(device))
        };
        Ok(Self {
            scheme,
            block,
            shape: [out, input],
            kind,
            codes: codes.to_device(device),
            scales,
        })
    }

    /// The same weight, its parts checked against each other.
    pub fn checked(self) -> Result<Self> {
        let wrong = |what, wanted: String, found: &Tensor| {
            let found = format!("{:?} {:?}", found.kind(), found.size());
            Err(Error::Parts { what, wanted, found })
        };
        let numbers = self.num_numbers();
        let (bytes, blocks) = (self.scheme.num_bytes(numbers), self.block.num_blocks(numbers));
        let kind = if self.scheme == Scheme::Int8 {
            Kind::Int8
        } else {
            Kind::Uint8
        };
        if self.codes.numel() != bytes || self.codes.kind() != kind {
            return wrong("codes", format!("{bytes} of dtype {kind:?}"), &self.codes);
        }
        let is = |tensor: &Tensor, kind, count| tensor.kind() == kind && tensor.numel() == count;
        match &self.scales {
            ScaleTensors::Plain(absmax) if !is(absmax, Kind::Float, blocks) => {
                wrong("absmax", format!("{blocks} of f32"), absmax)
            }
            ScaleTensors::Nested { codes, .. } if !is(codes, Kind::Uint8, blocks) => {
                wrong("nested absmax", format!("{blocks} of u8"), codes)
            }
            ScaleTensors::Nested { absmax, .. } if !is(absmax, Kind::Float, blocks.div_ceil(codec::NESTED_BLOCK)) => {
                wrong(
                    "the nested absmax's absmax",
                    format!("one f32 for 256 of {blocks}"),
                    absmax,
                )
            }
            ScaleTensors::Nested { levels, .. } if !is(levels, Kind::Float, 256) => {
                wrong("the nested absmax's levels", "256 of f32".into(), levels)
            }
            _ => Ok(self),
        }
    }

    /// A second handle on the same memory.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            codes: self.codes.shallow_clone(),
            scales: match &self.scales {
                ScaleTensors::Plain(absmax) => ScaleTensors::Plain(absmax.shallow_clone()),
                ScaleTensors::Nested {
                    codes,
                    absmax,
                    levels,
                    offset,
                } => ScaleTensors::Nested {
                    codes: codes.shallow_clone(),
                    absmax: absmax.shallow_clone(),
                    levels: levels.shallow_clone(),
                    offset: *offset,
                },
            },
            ..*self
        }
    }

    /// n: how many numbers the matrix has.
    pub fn num_numbers(&self) -> usize {
        (self.shape[0] * self.shape[1]) as usize
    }

    /// Bytes that codes and scales take.
    pub fn num_bytes(&self) -> usize {
        let size = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        size(&self.codes)
            + match &self.scales {
                ScaleTensors::Plain(absmax) => size(absmax),
                ScaleTensors::Nested { codes, absmax, .. } => size(codes) + size(absmax) + size_of::<f32>(),
            }
    }

    /// The matrix `[out, in]` again, in dtype `kind`.
    pub fn dequantise(&self, kind: Kind) -> Tensor {
        let matrix = Tensor::empty(self.shape, (kind, self.codes.device()));
        self.dequantise_into(&matrix);
        matrix
    }

    /// The matrix again, into `target` `[out, in]`, in its dtype.
    ///
    /// On the CPU, for f32 and bf16, on libtorch's threads; else by libtorch's operators.
    ///
    /// # Panics
    /// If `target` has another shape.
    pub fn dequantise_into(&self, target: &Tensor) {
        assert_eq!(target.size(), self.shape, "a target of the matrix's shape");
        match target.kind() {
            _ if target.device() != Device::Cpu || !target.is_contiguous() => self.by_operators(target),
            Kind::Float => self.unpack::<f32>(target),
            Kind::BFloat16 => self.unpack::<bf16>(target),
            _ => self.by_operators(target),
        }
    }

    fn unpack<T: Number + blob::Number>(&self, target: &Tensor) {
        let own = self.parts().into_iter().map(blob::span).collect();
        assert!(
            blob::are_apart(vec![blob::span(target)], own),
            "a target of its own memory"
        );
        // SAFETY: nothing of this weight lies in the target's memory, as was checked, and nothing else runs.
        #[allow(unsafe_code)]
        let values = unsafe { blob::slice_mut_shared::<T>(target) };
        let (length, target) = (values.len(), Shared::new(values));
        // SAFETY: as above.
        #[allow(unsafe_code)]
        let (codes, scales) = unsafe { self.on_cpu() };
        let (scheme, block) = (self.scheme, self.block);
        parallel::for_each_range(length.div_ceil(CHUNK), 1, |chunks| {
            let part = chunks.start * CHUNK..length.min(chunks.end * CHUNK);
            // SAFETY: ranges of chunks are disjoint.
            #[allow(unsafe_code)]
            let values = unsafe { target.part(part.clone()) };
            codec::dequantise_range(scheme, block, codes, &scales, part, values);
        });
    }

    /// Codes and scales as slices.
    ///
    /// # Safety
    /// Nothing writes to their tensors while the slices are in use.
    ///
    /// # Panics
    /// If they do not lie on the CPU, or do not belong to the matrix's shape.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn on_cpu(&self) -> (&[u8], Scales<'_>) {
        // SAFETY: the caller's.
        let (codes, scales) = unsafe { (code_bytes(&self.codes), self.scales()) };
        let numbers = self.num_numbers();
        assert_eq!(codes.len(), self.scheme.num_bytes(numbers), "bytes of {numbers} codes");
        assert_eq!(
            scales.len(),
            self.block.num_blocks(numbers),
            "blocks of {numbers} numbers"
        );
        (codes, scales)
    }

    /// # Safety
    /// As [`Self::on_cpu`].
    #[allow(unsafe_code)]
    unsafe fn scales(&self) -> Scales<'_> {
        // SAFETY: the caller's.
        unsafe {
            match &self.scales {
                ScaleTensors::Plain(absmax) => Scales::Plain(blob::slice(absmax)),
                ScaleTensors::Nested {
                    codes,
                    absmax,
                    levels,
                    offset,
                } => Scales::Nested {
                    codes: blob::slice(codes),
                    absmax: blob::slice(absmax),
                    levels: blob::slice(levels).try_into().expect("256 levels, as checked"),
                    offset: *offset as f32,
                },
            }
        }
    }

    /// Every tensor that it is held in.
    fn parts(&self) -> Vec<&Tensor> {
        let mut parts = vec![&self.codes];
        match &self.scales {
            ScaleTensors::Plain(absmax) => parts.push(absmax),
            ScaleTensors::Nested {
                codes, absmax, levels, ..
            } => parts.extend([codes, absmax, levels]),
        }
        parts
    }

    /// As [`Self::dequantise_into`] in libtorch's operators: the plain twin, and the way on other devices.
    fn by_operators(&self, target: &Tensor) {
        let (count, block) = (target.numel() as i64, self.block.get() as i64);
        let blocks = (count + block - 1) / block;
        let scales = match &self.scales {
            ScaleTensors::Plain(absmax) => absmax.shallow_clone(),
            ScaleTensors::Nested {
                codes,
                absmax,
                levels,
                offset,
            } => {
                let of = Tensor::arange(blocks, (Kind::Int64, codes.device()));
                let of = of.divide_scalar_mode(codec::NESTED_BLOCK as i64, "floor");
                levels.index_select(0, &codes.to_kind(Kind::Int64)) * absmax.index_select(0, &of) + *offset
            }
        };
        let scales = scales.unsqueeze(1).expand([blocks, block], true).reshape([-1]);
        let scales = scales.narrow(0, 0, count);
        let numbers = if self.scheme == Scheme::Int8 {
            self.codes.view([-1]).to_kind(Kind::Float) * scales * f64::from(1.0f32 / 127.0)
        } else {
            let bytes = self.codes.view([-1]).to_kind(Kind::Int64);
            let pairs = Tensor::stack(&[bytes.bitwise_right_shift_tensor_scalar(4), bytes.bitwise_and(15)], 1);
            let levels = match self.scheme {
                Scheme::Fp4 => &codec::FP4,
                Scheme::Int4 => &codec::INT4,
                Scheme::Nf4 | Scheme::Int8 => &codec::NF4,
            };
            let levels = Tensor::from_slice(levels).to_device(target.device());
            levels.index_select(0, &pairs.reshape([-1]).narrow(0, 0, count)) * scales
        };
        let mut target = target.shallow_clone();
        target.copy_(&numbers.view_as(&target));
    }
}

/// Codes and scales on libtorch's threads.
fn pack<T: Number + blob::Number>(values: &Tensor, scheme: Scheme, block: BlockSize) -> Result<(Tensor, Vec<f32>)> {
    // SAFETY: the tensor is borrowed, and nothing writes to it before this function returns.
    #[allow(unsafe_code)]
    let values = unsafe { blob::slice::<T>(values) };
    let mut codes = Tensor::zeros([scheme.num_bytes(values.len()) as i64], (Kind::Uint8, Device::Cpu));
    let mut absmax = vec![0.0f32; block.num_blocks(values.len())];
    let bytes = Shared::new(blob::slice_mut::<u8>(&mut codes));
    let scales = Shared::new(&mut absmax);
    let set = InstructionSet::best();
    parallel::for_each_range(values.len().div_ceil(CHUNK), 1, |chunks| {
        let (begin, end) = (chunks.start * CHUNK, values.len().min(chunks.end * CHUNK));
        let count = end - begin;
        // SAFETY: a chunk is whole blocks and whole bytes, so ranges of chunks write disjoint parts.
        #[allow(unsafe_code)]
        let (codes, absmax) = unsafe {
            (
                bytes.part(scheme.num_bytes(begin)..scheme.num_bytes(begin) + scheme.num_bytes(count)),
                scales.part(begin / block.get()..begin / block.get() + block.num_blocks(count)),
            )
        };
        codec::quantise_part(set, scheme, block, &values[begin..end], codes, absmax);
    });
    codec::all_finite(block, &absmax)?;
    Ok((codes, absmax))
}

/// The codes' bytes, signed or not.
///
/// # Safety
/// As [`blob::slice`].
#[allow(unsafe_code)]
unsafe fn code_bytes(codes: &Tensor) -> &[u8] {
    // SAFETY: the caller's; i8 and u8 have the same size and alignment.
    unsafe {
        if codes.kind() == Kind::Uint8 {
            return blob::slice(codes);
        }
        let signed = blob::slice::<i8>(codes);
        std::slice::from_raw_parts(signed.as_ptr().cast(), signed.len())
    }
}
