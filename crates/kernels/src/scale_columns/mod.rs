//! Each column of a matrix times its own number: `DoRA`'s magnitudes over norms, on a projection's output.
//!
//! `y = x ⊙ g`; backward `dx = dy ⊙ g`, `dg = Σ_t dy ⊙ x = (Σ_t dy ⊙ y) / g`. Only y is kept, which whoever reads it
//! keeps as well, and the result takes the place of `x` in memory.
//!
//! Source: Liu et al. 2024, arXiv:2402.09353, eq. 5. Deviation: g is never 0 (see [`FLOOR`]), so that y says what x was.
//! Shapes: t tokens, n columns; x and y `[t, n]`, g `[n]` f32.

mod kernel;
pub mod reference;
#[cfg(test)]
mod tests;

use half::bf16;
use tch::{Kind, Tensor};
use tensor_core::{autograd, blob};

use crate::rows::{Rows, fresh, in_rows, is_fused};
use tensor_core::vector::Scalar;

/// The smallest size of a factor: a factor nearer to 0 is taken for this one, whose products round to nothing beside
/// any activation but hold all of their digits.
pub const FLOOR: f64 = 1e-25;

/// `x` (`[t, n]`, f32 or bf16) with column j times `gain[j]` (`[n]` f32). The memory of `x` becomes the result's: nobody
/// else may read it any more.
///
/// # Panics
/// If `gain` has another length than a row, or another dtype than f32.
#[expect(clippy::needless_pass_by_value, reason = "its memory is given away")]
pub fn scale_columns(x: Tensor, gain: &Tensor) -> Tensor {
    let width = x.size().last().copied().unwrap_or(0);
    assert_eq!(gain.size(), [width], "one factor a column");
    if !is_fused(&x) {
        return reference::scale_columns(&x, &floored(gain));
    }
    assert_eq!(gain.kind(), Kind::Float, "factors are f32");
    let factors = tch::no_grad(|| floored(&gain.detach()).contiguous());
    let y = tch::no_grad(|| of_its_own(&x));
    match x.kind() {
        Kind::BFloat16 => forward::<bf16>(&y, &factors),
        _ => forward::<f32>(&y, &factors),
    }
    if !autograd::wants(&[&x, gain]) {
        return y;
    }
    let (held, wants_dx) = (y.detach(), x.requires_grad());
    autograd::attach(&[&x, gain], y, move |dy| {
        let Some(dy) = dy else { return vec![None, None] };
        let (dx, dg) = match held.kind() {
            Kind::BFloat16 => backward::<bf16>(&dy, &held, &factors),
            _ => backward::<f32>(&dy, &held, &factors),
        };
        vec![wants_dx.then_some(dx), Some(dg)]
    })
}

/// NaN stays NaN.
fn floored(gain: &Tensor) -> Tensor {
    gain.full_like(FLOOR).where_self(&gain.abs().lt(FLOOR), gain)
}

fn forward<T: Scalar>(y: &Tensor, factors: &Tensor) {
    // SAFETY: the memory was given away with its handle, and no slice of it is in use; libtorch runs on this thread.
    #[allow(unsafe_code)]
    let y = unsafe { blob::slice_mut_shared::<T>(y) };
    kernel::forward(y, &blob::to_vec(factors));
}

/// The memory of `x` as a tensor that no graph knows.
fn of_its_own(x: &Tensor) -> Tensor {
    let x = x.detach().contiguous();
    let mut own = Tensor::empty([0], (x.kind(), x.device()));
    own.set_data(&x);
    own
}

fn backward<T: Scalar>(dy: &Tensor, y: &Tensor, factors: &Tensor) -> (Tensor, Tensor) {
    let dy = in_rows(&dy.to_kind(y.kind()));
    let mut dx = Tensor::empty(y.size(), (y.kind(), y.device()));
    let mut dg = Tensor::empty(factors.size(), (Kind::Float, y.device()));
    let held = blob::to_vec(factors);
    kernel::backward::<T>(Rows::of(&dy), Rows::of(y).all(), &held, fresh(&mut dx), fresh(&mut dg));
    (dx, dg / factors)
}
