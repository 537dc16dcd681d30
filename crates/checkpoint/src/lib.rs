//! Model directories, GGUF files and PEFT adapters: read, checked, written.
//!
//! This crate knows formats and no method. [`ModelDir`] gives the same view of a Hugging Face directory and of a GGUF
//! file: a [`ModelConfig`], tensors by their Hugging Face names, [`TokenizerFiles`]. [`PeftAdapter`] does the same for
//! adapters. Weights are mapped, not read; what is written is written aside, synced and renamed.
//!
//! ```
//! use checkpoint::{Safetensors, TensorInfo, write_safetensors};
//! use tch::{Kind, Tensor};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model.safetensors");
//! let info = TensorInfo { name: "gain".into(), shape: vec![3], kind: Kind::Float };
//! write_safetensors(&path, &[info], |_| Ok(Tensor::from_slice(&[1.0f32, 2.0, 3.0])))?;
//!
//! let file = Safetensors::open(&path)?;
//! assert_eq!(Vec::<f32>::try_from(file.tensor("gain")?).unwrap(), [1.0, 2.0, 3.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod digest;
mod error;
mod finite;
mod gguf;
mod map;
mod model_dir;
mod peft;
mod safetensors;
mod staged;
mod tokenizer_files;

pub use crate::gguf::{Gguf, GgufTensor, GgufType, MetadataValue};
pub use config::{
    Activation, Dialect, ExpertNames, ExpertsConfig, Family, LayerKind, ModelConfig, Output, Rope, RopeScaling,
};
pub use digest::Digests;
pub use error::{BoxError, Error, Result};
pub use finite::finite;
pub use model_dir::{Existing, ModelDir, NamedEnds, SaveOptions, save_model, stage_model};
pub use peft::{InitLoraWeights, NamesOrPattern, PeftAdapter, PeftConfig, PeftPart, PeftTensor};
pub use safetensors::{
    PackedCode, PackedScales, PackedTensor, Safetensors, TensorInfo, write_safetensors, write_tensors,
};
pub use staged::{StagedDir, write_file};
pub use store::{cache_dir, is_hub_id, resolve, revision_of, use_cache_dir};
pub use tokenizer_files::TokenizerFiles;

// In the signatures here.
pub use tch;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
