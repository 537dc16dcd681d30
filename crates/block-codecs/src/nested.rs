//! Double quantisation: the scales themselves in 8 bits, less their mean.
//!
//! `c ≈ level[code] · c₂ + m`, with m the mean of all scales and blocks of 256. Deviation from the paper, as in its code:
//! the second level is the dynamic map, not an 8-bit float. Deviation from bitsandbytes: m is summed in f64, so that it
//! does not depend on how many threads summed it.

use std::ops::Range;

use super::dynamic::{DynamicMap, NESTED_BLOCK};

/// Scales in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct DoubleQuant {
    /// One a scale.
    pub codes: Vec<u8>,
    /// One for 256 scales.
    pub absmax: Vec<f32>,
    /// The mean, which was taken off first.
    pub offset: f32,
}

impl DoubleQuant {
    /// Of these scales.
    pub fn of(scales: &[f32]) -> Self {
        let sum: f64 = scales.iter().map(|scale| f64::from(*scale)).sum();
        Self::around(scales, (sum / scales.len().max(1) as f64) as f32)
    }

    /// Of these scales less `offset`.
    pub fn around(scales: &[f32], offset: f32) -> Self {
        let centred: Vec<f32> = scales.iter().map(|scale| scale - offset).collect();
        let mut codes = vec![0; scales.len()];
        let mut absmax = vec![0.0; scales.len().div_ceil(NESTED_BLOCK)];
        DynamicMap::signed().quantise(&centred, &mut codes, &mut absmax);
        Self { codes, absmax, offset }
    }

    /// Borrowed, with the levels of the signed dynamic map.
    pub fn scales(&self) -> Scales<'_> {
        Scales::Nested {
            codes: &self.codes,
            absmax: &self.absmax,
            levels: DynamicMap::signed().levels(),
            offset: self.offset,
        }
    }
}

/// The scales of a tensor's blocks, however they are held.
#[derive(Clone, Copy, Debug)]
pub enum Scales<'a> {
    /// As they are.
    Plain(&'a [f32]),
    /// In 8 bits.
    Nested {
        /// One a scale.
        codes: &'a [u8],
        /// One for 256 scales.
        absmax: &'a [f32],
        /// What a code stands for.
        levels: &'a [f32; 256],
        /// What is added.
        offset: f32,
    },
}

impl<'a> Scales<'a> {
    /// How many blocks have one.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(absmax) => absmax.len(),
            Self::Nested { codes, .. } => codes.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scales of `blocks`, in `scratch` if they have to be computed.
    ///
    /// # Panics
    /// If there are no such blocks, or `scratch` is shorter.
    pub fn of<'s>(&self, blocks: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Self::Plain(absmax) => &absmax[blocks],
            Self::Nested {
                codes,
                absmax,
                levels,
                offset,
            } => {
                let scratch = &mut scratch[..blocks.len()];
                for (scale, idx) in scratch.iter_mut().zip(blocks) {
                    *scale = levels[codes[idx] as usize] * absmax[idx / NESTED_BLOCK] + offset;
                }
                scratch
            }
        }
    }

    /// All of them.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut scratch = vec![0.0; self.len()];
        self.of(0..self.len(), &mut scratch).to_vec()
    }
}
