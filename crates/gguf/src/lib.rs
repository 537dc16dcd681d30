//! GGUF, versions 2 and 3: metadata, a table of tensors, aligned data. Everything is bounds-checked when opened.
//!
//! A [`Gguf`] is over bytes, mapped or in memory, and never reads past them whatever the header says. Tensors are
//! dequantised in parallel, number for number as llama.cpp's own Python package does. [`config_json`] and
//! [`tokenizer_files`] say what the metadata means in the files of a Hugging Face directory.
//!
//! Source: the `gguf` document of the ggml repository; the block formats are in `dequantise.rs`.
//!
//! ```
//! use gguf::Gguf;
//!
//! // A header of version 3 without tensors and without metadata.
//! let mut bytes = b"GGUF".to_vec();
//! bytes.extend(3u32.to_le_bytes());
//! bytes.extend([0; 16]);
//! let file = Gguf::new("empty.gguf".as_ref(), &bytes)?;
//! assert!(file.tensors().is_empty());
//! let error = Gguf::new("cut.gguf".as_ref(), &bytes[..10]).unwrap_err().to_string();
//! assert!(error.contains("cut short"), "{error}");
//! # Ok::<(), gguf::Error>(())
//! ```

mod config;
mod cursor;
mod dequantise;
mod error;
mod file;
mod metadata;
mod splits;
mod tokenizer;

pub use config::config_json;
pub use dequantise::{GgufType, Number};
pub use error::{Error, Result};
pub use file::{Gguf, GgufTensor};
pub use metadata::MetadataValue;
pub use tokenizer::{FromMetadata, tokenizer_files};

// In the signatures here.
pub use {half, serde_json};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
