//! LoRA: a frozen weight plus a trained update of low rank.
//!
//! `y = x Wᵀ + s · (x Aᵀ) Bᵀ`, `s = alpha / r` (or `alpha / √r`), A drawn small, B zero, so that nothing changes at step 0.
//!
//! Source: Hu et al. 2021, arXiv:2106.09685, eq. 3; the options are PEFT's. Shapes: t tokens, r rank, in and out widths;
//! W `[out, in]`, A `[r, in]`, B `[out, r]`. The other end of the same scale, training whole modules, is [`FullUpdate`].
//!
//! ```
//! use lora::{Init, LowRank, Lora};
//! use tch::Tensor;
//! use tensor_core::{Dense, Documents, Param, Pass, Projection, Role};
//!
//! let base = Dense::new(Param::frozen(Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0]).view([2, 2]), Role::Base));
//! let a = Tensor::from_slice(&[1.0f32, 1.0]).view([1, 2]);
//! let b = Tensor::from_slice(&[0.5f32, 0.0]).view([2, 1]);
//! let lora = Lora::new(Box::new(base), LowRank::new(&a, &b, 2.0), 0.0, 0);
//! let documents = Documents::new(&[1]);
//! let x = Tensor::from_slice(&[3.0f32, 4.0]).view([1, 2]);
//! let y = lora.forward(&x, &Pass::evaluate(&documents));
//! // x + 2 · (3 + 4) · [0.5, 0] = [10, 4]
//! assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [10.0, 4.0]);
//! assert_eq!(Vec::<f32>::try_from(lora.weight().view([-1])).unwrap(), [2.0, 1.0, 0.0, 1.0]);
//! ```

pub mod combine;

mod adapter;
mod config;
mod embedding;
mod error;
mod full;
mod idle;
mod init;
mod low_rank;
mod multimodal;
mod place;
mod projection;
mod set;
mod wrap;

pub use adapter::{PREFIX, adapter_tensors, as_written, from_peft_config, of_peft, of_saved, to_peft_config};
pub use config::{LoraConfig, TargetModules};
pub use embedding::LoraEmbedding;
pub use error::{Error, Result};
pub use full::{FullTable, FullUpdate};
pub use init::Init;
pub use low_rank::LowRank;
pub use multimodal::{Tensors, in_multimodal};
pub use place::Placement;
pub use projection::Lora;
pub use set::{AdapterNames, AdapterSet, Member};
pub use wrap::{Originals, Wrapping};

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
