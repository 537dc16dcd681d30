//! Root-mean-square norm: `y = x / √(mean x² + ε) · gain`, alone or after the residual sum before it.
//!
//! Shapes: n rows (tokens, or tokens × heads), d numbers of a row. The backward pass keeps `x` and one f32 a row:
//! with `r = 1/√(mean x² + ε)` and `g = dy · gain`, `dx = r g - x r³ mean(g x)`, `dgain = Σ dy x r`.
//!
//! Source: Zhang and Sennrich 2019, arXiv:1910.07467; rounding as in Transformers' Llama and Gemma.
//! Deviation: the backward pass rounds to the tensor's dtype once, at its end.

mod kernel;
pub mod reference;
#[cfg(test)]
mod tests;

use half::bf16;
use tch::{Kind, Tensor};
use tensor_core::{autograd, blob};

use crate::rows::{fresh, in_rows, is_fused};
use tensor_core::vector::Scalar;

/// What the weight of a norm means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// The factor itself; the normed row is rounded to the tensor's dtype before it (Llama, Qwen).
    Plain,
    /// The factor less one; one rounding, after it (Gemma).
    PlusOne,
}

/// The norm of each row of `x` (`[.., d]`, f32 or bf16), in `x`'s dtype; `gain`: `[d]`, f32 or `x`'s dtype.
///
/// Gradients reach `x` and `gain`. Rows of `[t, h, d]` may be a part of a wider row.
///
/// # Panics
/// If `gain` does not have d numbers.
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f64, meaning: Gain) -> Tensor {
    if !is_fused(x) {
        return reference::rms_norm(x, gain, eps, meaning);
    }
    match x.kind() {
        Kind::BFloat16 => alone::<bf16>(x, gain, eps, meaning),
        _ => alone::<f32>(x, gain, eps, meaning),
    }
}

/// `(residual + delta, its norm)`, both in the inputs' dtype, in one pass over the rows.
///
/// # Panics
/// If `gain` does not have d numbers, or `residual` and `delta` differ in shape or dtype.
pub fn add_rms_norm(residual: &Tensor, delta: &Tensor, gain: &Tensor, eps: f64, meaning: Gain) -> (Tensor, Tensor) {
    assert_eq!(
        (residual.size(), residual.kind()),
        (delta.size(), delta.kind()),
        "a residual stream and what is added to it"
    );
    if !is_fused(residual) {
        return reference::add_rms_norm(residual, delta, gain, eps, meaning);
    }
    match residual.kind() {
        Kind::BFloat16 => added::<bf16>(residual, delta, gain, eps, meaning),
        _ => added::<f32>(residual, delta, gain, eps, meaning),
    }
}

fn alone<T: Scalar>(x: &Tensor, gain: &Tensor, eps: f64, meaning: Gain) -> Tensor {
    let (y, saved) = tch::no_grad(|| {
        let x = in_rows(&x.detach());
        let factors = factors(gain, meaning, &x);
        let mut y = Tensor::empty(x.size(), (x.kind(), x.device()));
        let inverse = kernel::forward::<T>(&x, None, &factors, eps, meaning, fresh(&mut y));
        (y, Saved { x, inverse, factors })
    });
    if !autograd::wants(&[x, gain]) {
        return y;
    }
    let gain_kind = gain.requires_grad().then(|| gain.kind());
    autograd::attach(&[x, gain], y, move |dy| {
        let Some(dy) = dy else { return vec![None, None] };
        let (dx, dgain) = saved.backward::<T>(&dy, None, gain_kind);
        vec![Some(dx), dgain]
    })
}

fn added<T: Scalar>(residual: &Tensor, delta: &Tensor, gain: &Tensor, eps: f64, meaning: Gain) -> (Tensor, Tensor) {
    let (sum, y, saved) = tch::no_grad(|| {
        let (residual, delta) = (in_rows(&residual.detach()), in_rows(&delta.detach()));
        let factors = factors(gain, meaning, &residual);
        let mut sum = Tensor::empty(residual.size(), (residual.kind(), residual.device()));
        let mut y = Tensor::empty(residual.size(), (residual.kind(), residual.device()));
        let addition = kernel::Addition {
            delta: &delta,
            sum: fresh(&mut sum),
        };
        let inverse = kernel::forward::<T>(&residual, Some(addition), &factors, eps, meaning, fresh(&mut y));
        let saved = Saved {
            x: sum.detach(),
            inverse,
            factors,
        };
        (sum, y, saved)
    });
    if !autograd::wants(&[residual, delta, gain]) {
        return (sum, y);
    }
    let gain_kind = gain.requires_grad().then(|| gain.kind());
    let mut outputs = autograd::attach_many(&[residual, delta, gain], vec![sum, y], move |mut gradients| {
        let dy = gradients.pop().flatten();
        let dsum = gradients.pop().flatten();
        let Some(dy) = dy else {
            return vec![dsum.as_ref().map(Tensor::shallow_clone), dsum, None];
        };
        let (dx, dgain) = saved.backward::<T>(&dy, dsum.as_ref(), gain_kind);
        vec![Some(dx.shallow_clone()), Some(dx), dgain]
    });
    let y = outputs.pop().expect("two outputs in, two out");
    let sum = outputs.pop().expect("two outputs in, two out");
    (sum, y)
}

/// What the backward pass needs.
struct Saved {
    x: Tensor,
    inverse: Vec<f32>,
    factors: Vec<f32>,
}

impl Saved {
    /// `dx` (with `dsum` added) and, where the gain has a dtype to want it in, `dgain`.
    fn backward<T: Scalar>(self, dy: &Tensor, dsum: Option<&Tensor>, gain: Option<Kind>) -> (Tensor, Option<Tensor>) {
        let kind = self.x.kind();
        let dy = in_rows(&dy.to_kind(kind));
        let dsum = dsum.map(|dsum| in_rows(&dsum.to_kind(kind)));
        let mut dx = Tensor::empty(self.x.size(), (kind, self.x.device()));
        let gradients = kernel::Gradients {
            dy: &dy,
            dsum: dsum.as_ref(),
            dx: fresh(&mut dx),
        };
        let dgain = kernel::backward::<T>(&self.x, &self.inverse, &self.factors, gradients, gain.is_some());
        let dgain = gain
            .zip(dgain)
            .map(|(kind, dgain)| Tensor::from_slice(&dgain).to_kind(kind));
        (dx, dgain)
    }
}

/// What rows are multiplied by, `[d]` f32.
fn factors(gain: &Tensor, meaning: Gain, x: &Tensor) -> Vec<f32> {
    let width = x.size().last().map_or(0, |&d| d as usize);
    assert_eq!(
        gain.size(),
        [width as i64],
        "one gain a column of rows that are {width} wide"
    );
    let gain = gain.detach().to_kind(Kind::Float).contiguous();
    let more = if meaning == Gain::PlusOne { 1.0 } else { 0.0 };
    blob::to_vec::<f32>(&gain).iter().map(|g| g + more).collect()
}
