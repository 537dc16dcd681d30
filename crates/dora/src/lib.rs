//! DoRA: a weight as magnitude times direction; LoRA moves the direction.
//!
//! `y = (m / n) ⊙ (x Wᵀ + s · (x Aᵀ) Bᵀ)`, `n = ‖W + s·BA‖` by output row, and m begins as n, so that nothing changes at
//! step 0. In the backward pass n is held constant, unless `exact_norm` asks for its gradient.
//!
//! Source: Liu et al. 2024, arXiv:2402.09353, eq. 5 and section 4.3; magnitudes alone are its section 5.6; the options
//! are PEFT's. Shapes: t tokens, r rank, in and out widths; W `[out, in]`, A `[r, in]`, B `[out, r]`, m and n `[out]`.
//! How weights moved, in magnitude and in direction, is [`change`].
//!
//! ```
//! use dora::Dora;
//! use lora::LowRank;
//! use tch::Tensor;
//! use tensor_core::{Dense, Documents, Param, Pass, Projection, Role};
//!
//! let base = Dense::new(Param::frozen(Tensor::from_slice(&[3.0f32, 0.0, 0.0, 1.0]).view([2, 2]), Role::Base));
//! let a = Tensor::from_slice(&[0.0f32, 1.0]).view([1, 2]);
//! let b = Tensor::from_slice(&[2.0f32, 0.0]).view([2, 1]);
//! let dora = Dora::new(Box::new(base), Some(LowRank::new(&a, &b, 2.0)))?;
//! // W + 2·BA = [[3, 4], [0, 1]]: rows of norm 5 and 1.
//! let dora = dora.with_magnitude(&Tensor::from_slice(&[10.0f32, 1.0]));
//! let documents = Documents::new(&[1]);
//! let y = dora.forward(&Tensor::from_slice(&[1.0f32, 1.0]).view([1, 2]), &Pass::evaluate(&documents));
//! assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [14.0, 1.0]);
//! # Ok::<(), tensor_core::Found>(())
//! ```

mod adapter;
mod analysis;
mod config;
mod norm;
mod place;
mod projection;
mod wrap;

pub use adapter::{from_peft_config, still_factors, targeted, to_peft_config};
pub use analysis::{Change, Line, change, regression};
pub use config::DoraConfig;
pub use place::Placement;
pub use projection::Dora;
pub use wrap::Wrapping;

// In the signatures here.
pub use lora;
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
