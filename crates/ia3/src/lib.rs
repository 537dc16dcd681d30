//! IA3: a learned vector scales what a frozen layer gives out, or what it reads.
//!
//! Outputs: `y = l ⊙ (x Wᵀ + b)`, for keys and values. Inputs: `y = (l ⊙ x) Wᵀ + b`, for the second matrix of a
//! feed-forward. l begins as ones, so that nothing changes at step 0, and merges: `diag(l) W` and `l ⊙ b`, or `W diag(l)`.
//!
//! Source: Liu et al. 2022, arXiv:2205.05638, section 3.3; the options and the files are PEFT's. Shapes: t tokens, in and
//! out widths; W `[out, in]`, l `[out, 1]` over outputs and `[1, in]` over inputs, as in PEFT's files.
//!
//! ```
//! use ia3::{Ia3, Side};
//! use tch::Tensor;
//! use tensor_core::{Dense, Documents, Param, Pass, Projection, Role};
//!
//! let base = Dense::new(Param::frozen(Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([2, 2]), Role::Base));
//! let l = Tensor::from_slice(&[10.0f32, 1.0]).view([2, 1]);
//! let ia3 = Ia3::new(Box::new(base), Side::Outputs, &l)?;
//! let documents = Documents::new(&[1]);
//! let x = Tensor::from_slice(&[1.0f32, 1.0]).view([1, 2]);
//! let y = ia3.forward(&x, &Pass::evaluate(&documents));
//! // [10 · (1 + 2), 1 · (3 + 4)]
//! assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [30.0, 7.0]);
//! assert_eq!(Vec::<f32>::try_from(ia3.weight().view([-1])).unwrap(), [10.0, 20.0, 3.0, 4.0]);
//! # Ok::<(), tensor_core::Found>(())
//! ```

mod config;
mod error;
mod file;
mod place;
mod projection;
mod wrap;

pub use config::{Ia3Config, TargetModules};
pub use error::{Error, Result};
pub use file::{adapter_tensors, from_peft_config, in_multimodal, to_peft_config};
pub use place::Placement;
pub use projection::{Ia3, Side};
pub use wrap::Wrapping;

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
