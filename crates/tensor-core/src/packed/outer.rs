//! Sums of outer products over tokens, `Lᵀ R`: the gradients of low-rank factors.
//!
//! Shapes: t tokens, r rank (few), n width (many); L `[t, r]`, R `[t, n]`.

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::is_worthwhile;
use super::matrix::SendPtr;
use crate::{Unit, blob};

/// `Lᵀ R`: `[r, n]` f32 of bf16 `left` `[t, r]` and `right` `[t, n]`; by libtorch where that is no slower.
///
/// # Panics
/// If the two are no matrices of as many rows.
pub fn outer(left: &Tensor, right: &Tensor) -> Tensor {
    let sizes = (left.size2(), right.size2());
    let (Ok((t, rank)), Ok((tokens, n))) = sizes else {
        panic!(
            "outer products are of matrices, not of {:?} and {:?}",
            left.size(),
            right.size()
        );
    };
    assert_eq!(t, tokens, "both sides of an outer product have the same tokens");
    let is_bf16 = |x: &Tensor| x.kind() == Kind::BFloat16 && x.device() == Device::Cpu;
    let fits = is_bf16(left) && is_bf16(right) && t > 0 && rank > 0 && n > 0 && n % 32 == 0;
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
    let mut result = Tensor::empty([rank as i64, n as i64], (Kind::Float, Device::Cpu));
    let left = left.contiguous();
    let sides = Sides {
        // SAFETY: the operands are borrowed, and nothing writes to them before this function returns.
        #[allow(unsafe_code)]
        left: unsafe { blob::slice::<bf16>(&left) },
        right: SendPtr(right.data_ptr().cast()),
        stride: right.stride()[0] as usize,
        t,
        rank,
        n,
        target: SendPtr(blob::slice_mut::<f32>(&mut result).as_mut_ptr()),
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
