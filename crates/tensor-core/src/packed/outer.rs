//! Sums of outer products over tokens, `Lᵀ R`: the gradients of low-rank factors.
//!
//! Shapes: t tokens, r rank (few), n width (many); L `[t, r]`, R `[t, n]`.

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::matrix::SendPtr;
use crate::{Unit, blob};

/// `Lᵀ R`: `[r, n]` f32 of bf16 `left` `[t, r]` and `right` `[t, n]`, on tiles where they fit, else by libtorch.
pub fn outer(left: &Tensor, right: &Tensor) -> Tensor {
    let (Ok((t, rank)), Ok((_, n))) = (left.size2(), right.size2()) else {
        return left.tr().matmul(right);
    };
    let on_tiles =
        right.kind() == Kind::BFloat16 && right.device() == Device::Cpu && n % 32 == 0 && Unit::best() == Unit::Amx;
    if !on_tiles {
        return super::reference::outer(left, right);
    }
    let right = if right.stride()[1] == 1 {
        right.shallow_clone()
    } else {
        right.contiguous()
    };
    let (t, rank, n) = (t as usize, rank as usize, n as usize);
    let result = Tensor::empty([rank as i64, n as i64], (Kind::Float, Device::Cpu));
    let left = left.contiguous();
    let sides = Sides {
        left: blob::slice::<bf16>(&left),
        right: SendPtr(right.data_ptr().cast()),
        stride: right.stride()[0] as usize,
        t,
        rank,
        n,
        target: SendPtr(blob::slice_mut::<f32>(&result).as_mut_ptr()),
    };
    #[cfg(target_arch = "x86_64")]
    super::amx::outer(&sides);
    result
}

/// Both operands.
pub(super) struct Sides<'a> {
    pub(super) left: &'a [bf16],
    pub(super) right: SendPtr<bf16>,
    pub(super) stride: usize,
    pub(super) t: usize,
    pub(super) rank: usize,
    pub(super) n: usize,
    pub(super) target: SendPtr<f32>,
}

// SAFETY: `target` is written in disjoint columns; the rest is read.
#[allow(unsafe_code)]
unsafe impl Sync for Sides<'_> {}
