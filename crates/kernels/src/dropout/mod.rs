//! Dropout whose mask is a function of a key and an index: never stored, the same whenever it is asked for.
//!
//! `y_i = x_i keep_i / (1 - p)`, where `keep_i` compares 32 hashed bits of (key, i) with `p`. A recomputed block draws
//! its masks again, and the backward pass is the same function of `dy`.
//!
//! Source: Srivastava et al. 2014; counters instead of a state as in Salmon et al. 2011, doi:10.1145/2063384.2063405.
//! Deviation: the hash is the integer finaliser of Mulvey and Wellons ("lowbias32"), twice, not Philox.

mod kernel;
pub mod reference;
#[cfg(test)]
mod tests;

use half::bf16;
use tch::{Kind, Tensor};
use tensor_core::{DropoutKey, autograd};

use crate::rows::{Rows, fresh, is_fused};
use tensor_core::vector::Scalar;

/// `x` (f32 or bf16, any shape) with each number dropped with probability `p` and the others divided by `1 - p`.
///
/// Which numbers are dropped depends on `key` and their index alone: on every device the same.
///
/// # Panics
/// If `p` is not in `0.0..1.0`.
pub fn dropout(x: &Tensor, p: f64, key: DropoutKey) -> Tensor {
    assert!(
        (0.0..1.0).contains(&p),
        "dropout with probability {p}, wanted 0 to below 1"
    );
    if p == 0.0 {
        return x.shallow_clone();
    }
    if !is_fused(x) {
        return reference::dropout(x, p, key);
    }
    let y = tch::no_grad(|| drop(&x.detach(), p, key));
    if !autograd::wants(&[x]) {
        return y;
    }
    let kind = x.kind();
    autograd::attach(&[x], y, move |dy| vec![dy.map(|dy| drop(&dy.to_kind(kind), p, key))])
}

fn drop(x: &Tensor, p: f64, key: DropoutKey) -> Tensor {
    match x.kind() {
        Kind::BFloat16 => drop_as::<bf16>(x, p, key),
        _ => drop_as::<f32>(x, p, key),
    }
}

fn drop_as<T: Scalar>(x: &Tensor, p: f64, key: DropoutKey) -> Tensor {
    let x = x.contiguous();
    let mut y = Tensor::empty(x.size(), (x.kind(), x.device()));
    kernel::drop::<T>(Rows::of(&x).all(), p, key, fresh(&mut y));
    y
}
