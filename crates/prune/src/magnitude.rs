//! Magnitude: the smallest weights go.
//!
//! `S = |W|`, compared within a matrix, within each row, or over the whole model. Source: Han et al. 2015,
//! arXiv:1506.02626; the groupings are those of the Wanda paper's comparison. Deviation: exactly `⌊s n⌋` weights go,
//! where the authors' code takes all up to a threshold and so one more.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use tensor_core::blob;

use crate::{Error, Mask, Result, Sparsity, choose};

/// Within what weights are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Each matrix loses the share.
    #[default]
    Matrix,
    /// Each row, which is one output, loses the share.
    Row,
}

/// The mask of a weight `[out, in]` by the size of its numbers.
pub fn magnitude(weight: &Tensor, sparsity: Sparsity, per: Per) -> Result<Mask> {
    choose::mask(&weight.detach().abs(), sparsity, per)
}

/// One threshold for all matrices of a model: a matrix of small weights loses more of them.
///
/// Found without a copy of the weights: as f32, non-negative numbers are in the order of their bits, so two counts of 16
/// bits each say where the k-th smallest lies. Equal numbers go in the order of the matrices until the count is full.
#[derive(Debug)]
pub struct GlobalThreshold {
    bits: u32,
    ties: u64,
}

impl GlobalThreshold {
    /// Over the weights that `each` shows, twice in the same order; `share` of all of them goes.
    pub fn find(share: f64, mut each: impl FnMut(&mut dyn FnMut(&Tensor))) -> Result<Self> {
        let Sparsity::Share(share) = Sparsity::share(share)? else {
            unreachable!("a share")
        };
        let mut high = vec![0u64; 1 << 16];
        each(&mut |weight| sizes(weight, |bits| high[(bits >> 16) as usize] += 1));
        let total: u64 = high.iter().sum();
        let count = (share * total as f64) as u64;
        let (top, before) = bucket(&high, count);
        let mut low = vec![0u64; 1 << 16];
        each(&mut |weight| {
            sizes(weight, |bits| {
                if bits >> 16 == top {
                    low[(bits & 0xffff) as usize] += 1;
                }
            });
        });
        if low.iter().sum::<u64>() != high[top as usize] {
            return Err(Error::Option {
                option: "weights",
                found: "the second look showed other weights than the first".into(),
                hint: "show the same weights both times",
            });
        }
        let (rest, below) = bucket(&low, count - before);
        Ok(Self {
            bits: top << 16 | rest,
            ties: count - before - below,
        })
    }

    /// The size up to which weights go.
    pub fn value(&self) -> f32 {
        f32::from_bits(self.bits)
    }

    /// The mask of the next matrix, in the order in which [`Self::find`] saw them.
    pub fn mask(&mut self, weight: &Tensor) -> Mask {
        let mut kept = Vec::with_capacity(weight.numel());
        sizes(weight, |bits| {
            let is_tie = bits == self.bits && self.ties > 0;
            self.ties -= u64::from(is_tie);
            kept.push(bits >= self.bits && !is_tie);
        });
        Mask::new(Tensor::from_slice(&kept).view(weight.size().as_slice()))
    }
}

/// The bits of each |w| as f32.
fn sizes(weight: &Tensor, mut each: impl FnMut(u32)) {
    let weight = weight
        .detach()
        .to_device(tch::Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous();
    for value in &blob::to_vec::<f32>(&weight) {
        each(value.abs().to_bits());
    }
}

/// The bucket in which the first number beyond the `count` smallest lies, and how many lie before that bucket.
fn bucket(counts: &[u64], count: u64) -> (u32, u64) {
    let mut before = 0;
    for (idx, here) in counts.iter().enumerate() {
        if before + here > count {
            return (idx as u32, before);
        }
        before += here;
    }
    // Nothing lies beyond: only of an empty model.
    (counts.len() as u32 - 1, before)
}
