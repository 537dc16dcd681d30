//! Gated feed-forward activations: `silu(gate) · up` and `gelu(gate) · up`, from two tensors or from one fused row.
//!
//! Shapes: t tokens, f feed-forward width. The backward pass keeps the inputs alone and computes the activation again.
//! Both activations are `z σ(k(z))`: `k = z` for `SiLU`; `k = 2 √(2/π) (z + 0.044715 z³)` for GELU's tanh form, because
//! `(1 + tanh u)/2 = σ(2u)`.
//!
//! Source: Shazeer 2020, arXiv:2002.05202. Deviation: none; the product is rounded to the tensor's dtype once.

mod kernel;
pub mod reference;
#[cfg(test)]
mod tests;

use half::bf16;
use tch::{Kind, Tensor};
use tensor_core::autograd;

use crate::rows::{Rows, fresh, in_rows, is_fused};
use tensor_core::vector::Scalar;

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z σ(z)`: `SwiGLU`.
    Silu,
    /// The tanh form of GELU: `GeGLU` as in Gemma.
    GeluTanh,
}

/// `silu(gate) · up` for `[t, f]` tensors of one dtype.
///
/// # Panics
/// If the two differ in shape or dtype.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    gated(Activation::Silu, gate, up)
}

/// `gelu(gate) · up`, GELU in its tanh form, for `[t, f]` tensors of one dtype.
///
/// # Panics
/// If the two differ in shape or dtype.
pub fn geglu_tanh(gate: &Tensor, up: &Tensor) -> Tensor {
    gated(Activation::GeluTanh, gate, up)
}

/// `activation(gate) · up` for `[t, f]` tensors of one dtype.
///
/// # Panics
/// If the two differ in shape or dtype.
pub fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Tensor {
    assert_eq!(
        (gate.size(), gate.kind()),
        (up.size(), up.kind()),
        "a gate and what it gates"
    );
    if !is_fused(gate) {
        return reference::gated(activation, gate, up);
    }
    match gate.kind() {
        Kind::BFloat16 => two::<bf16>(activation, gate, up),
        _ => two::<f32>(activation, gate, up),
    }
}

/// `activation(gate) · up` for rows `[t, 2f]` that hold the gate first: `[t, f]`.
///
/// # Panics
/// If a row's width is odd.
pub fn gated_packed(activation: Activation, gate_up: &Tensor) -> Tensor {
    let width = gate_up.size().last().copied().unwrap_or(0);
    assert!(width % 2 == 0, "a row of a gate and what it gates is {width} wide");
    if !is_fused(gate_up) || gate_up.dim() != 2 {
        return reference::gated_packed(activation, gate_up);
    }
    match gate_up.kind() {
        Kind::BFloat16 => packed::<bf16>(activation, gate_up),
        _ => packed::<f32>(activation, gate_up),
    }
}

fn two<T: Scalar>(activation: Activation, gate: &Tensor, up: &Tensor) -> Tensor {
    let (y, saved_gate, saved_up) = tch::no_grad(|| {
        let (gate, up) = (in_rows(&gate.detach()), in_rows(&up.detach()));
        let mut y = Tensor::empty(gate.size(), (gate.kind(), gate.device()));
        kernel::forward(activation, Rows::<T>::of(&gate), Rows::of(&up), fresh(&mut y));
        (y, gate, up)
    });
    if !autograd::wants(&[gate, up]) {
        return y;
    }
    autograd::attach(&[gate, up], y, move |dy| {
        let Some(dy) = dy else { return vec![None, None] };
        let dy = in_rows(&dy.to_kind(saved_gate.kind()));
        let [mut dgate, mut dup] = [(); 2].map(|()| Tensor::empty(dy.size(), (dy.kind(), dy.device())));
        let (gate, up) = (Rows::<T>::of(&saved_gate), Rows::of(&saved_up));
        let into = kernel::Gradients::apart(fresh(&mut dgate), fresh(&mut dup), gate.width());
        kernel::backward(
            activation,
            gate,
            up,
            Rows::of(&dy),
            &into,
            dy.numel() / gate.width().max(1),
        );
        vec![Some(dgate), Some(dup)]
    })
}

fn packed<T: Scalar>(activation: Activation, gate_up: &Tensor) -> Tensor {
    fn halves<T: Scalar>(gate_up: &Tensor) -> (Rows<'_, T>, Rows<'_, T>) {
        let rows = Rows::of(gate_up);
        let f = rows.width() / 2;
        (rows.columns(0, 1, f), rows.columns(f, 1, f))
    }
    let (y, saved) = tch::no_grad(|| {
        let saved = in_rows(&gate_up.detach());
        let size = saved.size();
        let mut y = Tensor::empty([size[0], size[1] / 2], (saved.kind(), saved.device()));
        let (gate, up) = halves::<T>(&saved);
        kernel::forward(activation, gate, up, fresh(&mut y));
        (y, saved)
    });
    if !autograd::wants(&[gate_up]) {
        return y;
    }
    autograd::attach(&[gate_up], y, move |dy| {
        let Some(dy) = dy else { return vec![None] };
        let dy = in_rows(&dy.to_kind(saved.kind()));
        let mut gradient = Tensor::empty(saved.size(), (saved.kind(), saved.device()));
        let (gate, up) = halves::<T>(&saved);
        let into = kernel::Gradients::packed(fresh(&mut gradient), gate.width());
        kernel::backward(activation, gate, up, Rows::of(&dy), &into, saved.size()[0] as usize);
        vec![Some(gradient)]
    })
}
