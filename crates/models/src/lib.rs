//! Models by the names that users give them: a directory, a `.gguf` file, a name in the store, a hub id.
//!
//! A [`Source`] is a model on disk, opened and checked: its configuration, its tokenizer's files, how it was given prompts
//! in training, what it was made of. It becomes a decoder on a [`machine::Machine`], dense or packed
//! ([`quantised::Quantisation`]), and whatever is made of it is written through it, so that tokenizer, templates, end
//! tokens and provenance stay with the weights. What is odd about its files is told to the [`events::Events`] that it was
//! opened with; nothing is printed.
//!
//! This crate is blind to methods: adapters are placed by the crate above.

pub mod datafile;
pub mod experts;
pub mod machine;
pub mod prompts;
pub mod provenance;
pub mod quantised;
pub mod rates;
mod source;
pub mod zeros;

pub use source::{PromptFormat, Source, templates_in};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
