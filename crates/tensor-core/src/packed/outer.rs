//! Sums of outer products over tokens, `Lᵀ R`: the gradients of low-rank factors.
//!
//! Shapes: t tokens, r rank (few), n width (many); L `[t, r]`, R `[t, n]`.

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::is_worthwhile;
use super::matrix::SendPtr;
use crate::{Unit, blob};

/// `Lᵀ R`: `[r, n]` f32 of bf16 `left` `[t, r]` and `right` `[t, n]`; by libtorch where that is no slower.
pub fn outer(left: &Tensor, right: &Tensor) -> Tensor {
    let sizes = (left.size2(), right.size2());
    let fits = right.kind() == Kind::BFloat16
        && right.device() == Device::Cpu
        && matches!(sizes, (Ok((t, rank)), Ok((_, n))) if t > 0 && rank > 0 && n % 32 == 0);
    if fits && is_worthwhile() {
        fused(left, right)
    } else {
        super::reference::outer(left, right)
    }
}

/// As [`outer`], on the best unit whatever it is, for shapes that fit.
pub(super) fn fused(left: &Tensor, right: &Tensor) -> Tensor {
    let (t, rank) = left.size2().expect("a matrix has two dimensions");
    let n = right.size()[1];
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
    match Unit::best() {
        #[cfg(target_arch = "x86_64")]
        Unit::Amx => super::amx::outer(&sides),
        _ => super::lanes::outer(&sides),
    }
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
