//! `AdamW` over many tensors in one loop, and the gradients' norm: f32 masters, f32 moments, one pass over memory.
//!
//! `w ← w (1 - η λ)`; `m ← m + (1 - β₁)(g - m)`; `v ← β₂ v + (1 - β₂) g²`;
//! `w ← w - η/(1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)`.
//!
//! Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, in the arithmetic of `torch.optim.AdamW`.
//! Deviation: none.

mod by_lists;
mod kernel;
pub mod reference;
#[cfg(test)]
mod tests;

use tch::{Device, Kind, Tensor};
use tensor_core::blob;

/// One step of the whole optimiser.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Which step this is, from 1.
    pub number: u64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// What gradients are multiplied by on their way in: clipping.
    pub gradient_scale: f64,
}

/// One parameter with its state: f32 tensors of one shape. The first, second and value are written in place.
#[derive(Debug)]
pub struct Moving<'a> {
    /// The master.
    pub value: &'a Tensor,
    /// Its gradient, which stays as it is.
    pub gradient: &'a Tensor,
    /// The running mean of gradients.
    pub first: &'a Tensor,
    /// The running mean of their squares.
    pub second: &'a Tensor,
    /// η, already scheduled.
    pub learning_rate: f64,
    /// λ.
    pub weight_decay: f64,
}

/// Moves every parameter by one step.
///
/// # Panics
/// If the tensors of a parameter differ in shape, are not f32 or not contiguous, or a parameter comes twice.
pub fn adamw(params: &[Moving], step: &Step) {
    let (mut written, mut read) = (Vec::new(), Vec::new());
    let (mut on_cpu, mut elsewhere) = (Vec::with_capacity(params.len()), Vec::new());
    for param in params {
        for tensor in [param.value, param.gradient, param.first, param.second] {
            assert_eq!(
                tensor.size(),
                param.value.size(),
                "a parameter, its gradient and its moments"
            );
            assert_eq!(tensor.kind(), Kind::Float, "masters, gradients and moments are f32");
        }
        if param.value.numel() == 0 {
            continue;
        }
        written.extend([param.value, param.first, param.second].map(blob::span));
        read.push(blob::span(param.gradient));
        if param.value.device() == Device::Cpu {
            on_cpu.push((param, param.gradient.contiguous()));
        } else {
            elsewhere.push(param);
        }
    }
    assert!(
        blob::are_apart(written, read),
        "a parameter moves once a step: values, moments and gradients share no memory"
    );
    by_lists::adamw(&elsewhere, step);
    let mut slices: Vec<_> = on_cpu
        .iter()
        .map(|(param, gradient)| {
            // SAFETY: what is written shares no memory with anything else here, as was checked, and nothing else runs.
            #[allow(unsafe_code)]
            unsafe {
                kernel::Slices {
                    value: blob::slice_mut_shared(param.value),
                    gradient: blob::slice(gradient),
                    first: blob::slice_mut_shared(param.first),
                    second: blob::slice_mut_shared(param.second),
                    factors: kernel::Factors::new(param, step),
                }
            }
        })
        .collect();
    kernel::step(&mut slices);
}

/// The L2 norm of all `gradients` (f32) together, summed in f64, the same for any number of threads.
///
/// Undefined tensors count nothing.
pub fn grad_norm(gradients: &[&Tensor]) -> f64 {
    let mut square_sum = 0.0;
    let (mut on_cpu, mut elsewhere) = (Vec::with_capacity(gradients.len()), Vec::new());
    for gradient in gradients.iter().filter(|gradient| gradient.defined()) {
        let gradient = gradient.detach();
        if gradient.device() == Device::Cpu && gradient.kind() == Kind::Float {
            on_cpu.push(gradient.contiguous());
        } else if gradient.kind() == Kind::Float {
            elsewhere.push(gradient);
        } else {
            square_sum += reference::square_sum(&gradient);
        }
    }
    // SAFETY: nothing writes to the gradients before they are summed.
    #[allow(unsafe_code)]
    let slices: Vec<&[f32]> = on_cpu.iter().map(|gradient| unsafe { blob::slice(gradient) }).collect();
    (square_sum + by_lists::square_sum(&elsewhere) + kernel::square_sum(&slices)).sqrt()
}
