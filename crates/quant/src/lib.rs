//! Weights in 4 or 8 bits: the projection over them, the surgery that makes it, bitsandbytes' form.
//!
//! `Ŵ = level[code] · c`, a scale c for each block of numbers; [`codec`] does this over slices and arrays, and is a crate of
//! its own that needs no libtorch.
//! [`Quantized`] is a frozen projection over codes: QLoRA is this surgery and then another crate's.
//!
//! Source: Dettmers et al. 2023, arXiv:2305.14314. Numbers, names and bytes are bitsandbytes'.
//!
//! ```
//! use quant::{Quantized, QuantizedWeight};
//! use quant::codec::{BlockSize, Scheme};
//! use tch::Tensor;
//! use tensor_core::{Documents, Pass, Projection};
//!
//! let weight = Tensor::from_slice(&[1.0f32, 0.5, 0.0, -1.0]).view([2, 2]);
//! let packed = QuantizedWeight::of(&weight, Scheme::Nf4, BlockSize::default(), false)?;
//! assert_eq!(packed.num_bytes(), 2 + 4);
//!
//! let documents = Documents::new(&[1]);
//! let x = Tensor::from_slice(&[3.0f32, 4.0]).view([1, 2]);
//! let y = Quantized::new(packed).forward(&x, &Pass::evaluate(&documents));
//! // 0.5 becomes the level 0.44070983: [3 + 4 · 0.44070983, -4].
//! assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [4.7628393, -4.0]);
//! # Ok::<(), quant::Error>(())
//! ```

pub mod adamw;
mod config;
mod error;
mod few_rows;
mod quantized;
mod weight;

pub use config::{QuantizeConfig, Quantizing};
pub use error::{Error, Result};
pub use quantized::Quantized;
pub use weight::{QuantizedWeight, ScaleTensors};

pub use block_codecs as codec;

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
