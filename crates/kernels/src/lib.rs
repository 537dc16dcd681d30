//! Fused operators for language models, each with its plain reference.
//!
//! On the CPU an operator passes over memory once, in f32 inside, for f32 and bf16 tensors, with AVX-512, AVX2 or
//! neither; its backward pass keeps inputs and a few numbers a row. Elsewhere, and for other dtypes, the plain twin in
//! [`reference`] runs.
//!
//! ```
//! use kernels::{Gain, rms_norm, swiglu};
//! use tch::{Kind, Tensor};
//!
//! // 3 and 4 have the root mean square √12.5.
//! let x = Tensor::from_slice(&[3.0f32, 4.0]).view([1, 2]).set_requires_grad(true);
//! let y = rms_norm(&x, &Tensor::from_slice(&[1.0f32, 10.0]), 0.0, Gain::Plain);
//! let numbers = Vec::<f32>::try_from(y.detach().view([-1]))?;
//! assert!((numbers[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6);
//! assert!((numbers[1] - 40.0 / 12.5f32.sqrt()).abs() < 1e-5);
//!
//! // A longer row has the same norm: the gradient along x is zero.
//! y.sum(Kind::Float).backward();
//! assert!(x.grad().view([-1]).dot(&x.detach().view([-1])).double_value(&[]).abs() < 1e-6);
//!
//! // silu(0) = 0 and silu(z) = z for a large z.
//! let gate = Tensor::from_slice(&[0.0f32, 100.0]).view([1, 2]);
//! let gated = swiglu(&gate, &Tensor::from_slice(&[7.0f32, 0.5]).view([1, 2]));
//! assert_eq!(Vec::<f32>::try_from(gated.view([-1]))?, [0.0, 50.0]);
//! # Ok::<(), tch::TchError>(())
//! ```

#![expect(
    clippy::inline_always,
    reason = "a kernel's parts must be inlined where its instructions are allowed"
)]

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod rms_norm;
pub mod rope;
pub mod scale_columns;
pub mod swiglu;

#[cfg(test)]
mod inlined;
pub mod reference;
mod rows;
mod softmax;
#[cfg(test)]
mod twins;

pub use attention::{SequenceKv, attend_past, attention};
pub use cross_entropy::{linear_cross_entropy, token_log_probs, token_log_probs_and_entropies};
pub use rms_norm::{Gain, add_rms_norm, rms_norm};
pub use rope::{RopeTable, Rotation, rope, rope_qkv};
pub use scale_columns::scale_columns;
pub use swiglu::{Activation, gated, gated_packed, geglu_tanh, swiglu};

// In the signatures here.
pub use tch;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
