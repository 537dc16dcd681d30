//! Blocks of numbers as small codes and one scale each: NF4, FP4, int4 and int8.
//!
//! A block of numbers x with absmax `c = max |x|` is kept as `c` and, for each number, the index of the level nearest
//! to `x / c`: `x̂ = level[index] · c`. Two 4-bit indices share a byte, the even element in the high nibble. Blocks run
//! over the flattened numbers; the last may be shorter. [`reference`] is the definition in plain loops; the paths for
//! AVX-512 and AVX2 give the same bits.
//!
//! Sources: Dettmers et al. 2023, arXiv:2305.14314, section 3; bitsandbytes 0.50 where the paper leaves a choice (which
//! way ties go, the order of nibbles, the second-level code).
//!
//! Over slices that the caller provides:
//!
//! ```
//! use block_codecs::{BlockSize, Scheme, dequantise, quantise};
//!
//! let values = [0.0f32, 0.5, -1.0, 0.25];
//! let (mut codes, mut absmax) = ([0u8; 2], [0.0f32; 1]);
//! quantise(Scheme::Nf4, BlockSize::new(64)?, &values, &mut codes, &mut absmax)?;
//! assert_eq!((codes, absmax), ([0x7c, 0x0a], [1.0]));
//!
//! let mut back = [0.0f32; 4];
//! dequantise(Scheme::Nf4, BlockSize::new(64)?, &codes, &absmax, &mut back);
//! assert_eq!(back, [0.0, 0.440_709_83, -1.0, 0.246_112_3]);
//! # Ok::<(), block_codecs::Error>(())
//! ```
//!
//! Over arrays, as one value: see [`Blocks`].

mod blocks;
mod dynamic;
mod error;
mod levels;
mod nested;
mod number;
mod path;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod reference;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use blocks::Blocks;
pub use dynamic::{DynamicMap, NESTED_BLOCK};
pub use error::{Error, Result};
pub use levels::{FP4, INT4, NF4};
pub use nested::{DoubleQuant, Scales};
pub use number::Number;
pub use path::InstructionSet;

// In the signatures here.
pub use {gemm, half, ndarray};

/// Which levels a block's numbers are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// 16 levels that a normal distribution fills: [`NF4`].
    #[default]
    Nf4,
    /// 4-bit floats, sign, two bits of exponent, one of mantissa: [`FP4`].
    Fp4,
    /// Whole numbers -7 to 7 times `c / 7`: [`INT4`].
    Int4,
    /// Whole numbers -127 to 127 times `c / 127`.
    Int8,
}

impl Scheme {
    /// Bits of one number's code.
    pub fn bits(self) -> usize {
        match self {
            Self::Nf4 | Self::Fp4 | Self::Int4 => 4,
            Self::Int8 => 8,
        }
    }

    /// Bytes of the codes of `len` numbers.
    pub fn num_bytes(self, len: usize) -> usize {
        (len * self.bits()).div_ceil(8)
    }

    /// Bits a number takes, scales included, in a tensor of many whole blocks.
    pub fn bits_per_parameter(self, block: BlockSize, double_quant: bool) -> f64 {
        let block = block.get() as f64;
        let scale = if double_quant {
            8.0 + 32.0 / NESTED_BLOCK as f64
        } else {
            32.0
        };
        self.bits() as f64 + scale / block
    }

    /// As recipes and files name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Numbers that share a scale: a power of two from 32 to 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "usize", into = "usize")]
#[schemars(extend("enum" = [32, 64, 128, 256, 512, 1024, 2048, 4096]))]
pub struct BlockSize(usize);

impl BlockSize {
    /// An error unless `numbers` is 32, 64, 128, 256, 512, 1024, 2048 or 4096.
    pub fn new(numbers: usize) -> Result<Self> {
        if numbers.is_power_of_two() && (32..=4096).contains(&numbers) {
            Ok(Self(numbers))
        } else {
            Err(Error::BlockSize { found: numbers })
        }
    }

    /// How many numbers.
    pub fn get(self) -> usize {
        self.0
    }

    /// Blocks of `len` numbers, the last perhaps shorter.
    pub fn num_blocks(self, len: usize) -> usize {
        len.div_ceil(self.0)
    }
}

impl Default for BlockSize {
    /// 64, as in the paper.
    fn default() -> Self {
        Self(64)
    }
}

impl TryFrom<usize> for BlockSize {
    type Error = Error;

    fn try_from(numbers: usize) -> Result<Self> {
        Self::new(numbers)
    }
}

impl From<BlockSize> for usize {
    fn from(block: BlockSize) -> Self {
        block.0
    }
}

/// Numbers that one thread takes at a time: whole blocks of any size, and even, so that no byte is shared.
pub const CHUNK: usize = 1 << 15;

/// Codes and scales of `values`, on all of rayon's threads.
///
/// `codes`: [`Scheme::num_bytes`] of them; `absmax`: one a block. Errors: a number that is not finite.
///
/// # Panics
/// If `codes` or `absmax` have other lengths.
pub fn quantise<T: Number>(
    scheme: Scheme,
    block: BlockSize,
    values: &[T],
    codes: &mut [u8],
    absmax: &mut [f32],
) -> Result<()> {
    check_lengths(scheme, block, values.len(), codes.len(), absmax.len());
    let parts = values
        .par_chunks(CHUNK)
        .zip(codes.par_chunks_mut(scheme.num_bytes(CHUNK)))
        .zip(absmax.par_chunks_mut(CHUNK / block.get()));
    parts.for_each(|((values, codes), absmax)| {
        quantise_part(InstructionSet::best(), scheme, block, values, codes, absmax);
    });
    all_finite(block, absmax)
}

/// The numbers that codes and scales stand for, on all of rayon's threads.
///
/// # Panics
/// As [`quantise`].
pub fn dequantise<T: Number>(scheme: Scheme, block: BlockSize, codes: &[u8], absmax: &[f32], values: &mut [T]) {
    check_lengths(scheme, block, values.len(), codes.len(), absmax.len());
    let scales = Scales::Plain(absmax);
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(idx, values)| {
        let begin = idx * CHUNK;
        dequantise_range(scheme, block, codes, &scales, begin..begin + values.len(), values);
    });
}

/// One thread's part of [`quantise`], with the instructions of `set`: `values` begin at a block.
///
/// A number that is not finite leaves its block's absmax so, and [`all_finite`] finds it.
///
/// # Panics
/// If the lengths do not fit, or this machine lacks `set`.
pub fn quantise_part<T: Number>(
    set: InstructionSet,
    scheme: Scheme,
    block: BlockSize,
    values: &[T],
    codes: &mut [u8],
    absmax: &mut [f32],
) {
    check_lengths(scheme, block, values.len(), codes.len(), absmax.len());
    let whole = values.len() / block.get();
    let (values, rest) = values.split_at(whole * block.get());
    let (codes, rest_codes) = codes.split_at_mut(scheme.num_bytes(values.len()));
    let (absmax, rest_absmax) = absmax.split_at_mut(whole);
    path::quantise(set, scheme, block, values, codes, absmax);
    if let [absmax] = rest_absmax {
        *absmax = reference::quantise_last(scheme, rest, rest_codes);
    }
}

/// An error that names the first number's block if any scale is not finite.
pub fn all_finite(block: BlockSize, absmax: &[f32]) -> Result<()> {
    match absmax.iter().position(|absmax| !absmax.is_finite()) {
        Some(idx) => Err(Error::NotFinite {
            begin: idx * block.get(),
        }),
        None => Ok(()),
    }
}

/// Numbers `range` of a tensor, with this machine's best instructions, on the calling thread.
///
/// `codes` and `scales` are the whole tensor's; `range` begins at a multiple of [`CHUNK`] and `values` takes it all.
///
/// # Panics
/// If `range` begins elsewhere or the lengths do not fit.
pub fn dequantise_range<T: Number>(
    scheme: Scheme,
    block: BlockSize,
    codes: &[u8],
    scales: &Scales,
    range: Range<usize>,
    values: &mut [T],
) {
    assert!(
        range.start.is_multiple_of(block.get()),
        "a range of numbers begins at a block"
    );
    assert_eq!(values.len(), range.len(), "as many numbers as the range has");
    let mut scratch = [0.0f32; CHUNK / 32];
    let step = CHUNK.min(scratch.len() * block.get());
    for (idx, values) in values.chunks_mut(step).enumerate() {
        let begin = range.start + idx * step;
        let first = begin / block.get();
        let absmax = scales.of(first..first + block.num_blocks(values.len()), &mut scratch);
        let bytes = scheme.num_bytes(begin)..scheme.num_bytes(begin + values.len());
        dequantise_part(InstructionSet::best(), scheme, block, &codes[bytes], absmax, values);
    }
}

/// One thread's part of [`dequantise`], with the instructions of `set`: all slices begin at the same block.
///
/// # Panics
/// If the lengths do not fit, or this machine lacks `set`.
pub fn dequantise_part<T: Number>(
    set: InstructionSet,
    scheme: Scheme,
    block: BlockSize,
    codes: &[u8],
    absmax: &[f32],
    values: &mut [T],
) {
    check_lengths(scheme, block, values.len(), codes.len(), absmax.len());
    let whole = values.len() / block.get();
    let (values, rest) = values.split_at_mut(whole * block.get());
    let (codes, rest_codes) = codes.split_at(scheme.num_bytes(values.len()));
    let (absmax, rest_absmax) = absmax.split_at(whole);
    path::dequantise(set, scheme, block, codes, absmax, values);
    if let [absmax] = rest_absmax {
        reference::dequantise_block(scheme, rest_codes, *absmax, rest);
    }
}

fn check_lengths(scheme: Scheme, block: BlockSize, values: usize, codes: usize, absmax: usize) {
    assert_eq!(codes, scheme.num_bytes(values), "bytes of {values} codes");
    assert_eq!(absmax, block.num_blocks(values), "blocks of {values} numbers");
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
