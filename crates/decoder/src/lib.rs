//! Decoder-only language models: blocks, heads, generation.
//!
//! A [`Decoder`] is a tree of slots (Llama, Mistral, Qwen 2 and 3, Gemma 3; Mixtral and
//! Qwen's mixtures with what makes experts, [`Decoder::load_mixture`]) that methods replace by surgery:
//! [`Decoder::map_projections`], [`Decoder::map_sublayers`], [`Decoder::map_embedding`], [`Decoder::train_where`]. It
//! runs packed documents ([`tensor_core::Documents`]), generates with a cache ([`Decoder::generate`]) and scores
//! ([`Decoder::token_log_probs`]). The losses of [`loss`] never hold the full logits.
//!
//! ```
//! use checkpoint::ModelDir;
//! use decoder::{Decoder, GenerateOptions};
//! use tch::{Device, Kind};
//!
//! let dir = ModelDir::open(&golden::vectors_dir().join("families/llama-tied"))?;
//! let model = Decoder::load(&dir, Device::Cpu, Kind::Float)?;
//! let options = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
//! let answers = model.generate(&[vec![21, 28, 33, 74, 23]], &options, &mut |_, _| ())?;
//! assert_eq!(answers[0].tokens, [41, 77, 15, 36]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
mod block;
mod cache;
mod decoder;
mod error;
mod feed_forward;
mod generate;
mod head;
mod load;
mod norm;
mod random;
mod sampler;
mod save;
mod score;
mod training;

pub mod loss;

pub use attention::{Attention, AttentionProjections, AttentionShape};
pub use block::{Block, BlockNorms};
pub use cache::KvCache;
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use feed_forward::SwiGlu;
pub use generate::{EndTokens, GenerateOptions, Generated, Stop};
pub use head::HeadKind;
pub use load::{ExpertSlots, ExpertsSource, ProjectionSource, Sources, projection_paths};
pub use norm::{NormSurgeon, RmsNorm};
pub use sampler::Sampler;

// In the signatures here.
pub use checkpoint;
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
