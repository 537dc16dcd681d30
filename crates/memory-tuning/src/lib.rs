//! Memory tuning: facts kept in a mixture of up to a million experts beside frozen matrices.
//!
//! `y = W x + c Σ_{e∈S} a_e v_e (u_eᵀ x)`: for each token the k best of N experts answer, found exactly and cheaply by
//! product keys ([`ProductKeys`]); an expert is a row `(u, v)` of a mapped table ([`Table`]) that exists once it was
//! trained, and v begins at 0. The selection is fitted briefly and then frozen, so a fact always meets the same rows;
//! then only these rows train, fact by fact, with optimiser states of their own ([`RowStates`]), until the fact is known.
//! Everything else stays bit for bit.
//!
//! Sources: Li et al. 2024 (Lamini-1), arXiv:2406.17642; product keys: Lample et al. 2019, arXiv:1907.05242; the choice
//! of slots by TF-IDF: Lin et al. 2025, arXiv:2510.15103. Deviations are named where they happen.
//! Shapes: t tokens, k chosen experts, in and out widths; u `[ρ, in]`, v `[ρ, out]`.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use memory_tuning::{Experts, Memory, MemoryConfig};
//! use tch::{Device, Kind, Tensor};
//! use tensor_core::{Dense, Documents, Param, Pass, Projection, Role};
//!
//! let config = MemoryConfig { num_experts: 4, top_k: 4, query_dim: 2, ..MemoryConfig::default() };
//! let experts = Arc::new(Mutex::new(Experts::random(&config, &"q_proj".into(), 2, 1)));
//! let base = Dense::new(Param::frozen(Tensor::from_slice(&[1.0f32, 1.0]).view([1, 2]), Role::Base));
//! let memory = Memory::new(Box::new(base), experts.clone());
//! let documents = Documents::new(&[1]);
//! let answer = || {
//!     let x = Tensor::from_slice(&[3.0f32, 4.0]).view([1, 2]);
//!     memory.forward(&x, &Pass::evaluate(&documents)).double_value(&[0, 0])
//! };
//! assert_eq!(answer(), 7.0);
//! // All four experts answer, with shares that sum to 1: each says 2 · (u · x) = 2 · 3.
//! for id in 0..4 {
//!     let mut experts = experts.lock().unwrap();
//!     let slot = experts.table.touch(id)?;
//!     experts.table.row_mut(slot).copy_from_slice(&[1.0, 0.0, 2.0]);
//! }
//! assert!((answer() - 13.0).abs() < 1e-5);
//! # Ok::<(), memory_tuning::Error>(())
//! ```

#![expect(
    clippy::inline_always,
    reason = "a kernel's parts must be inlined where its instructions are allowed"
)]

mod bank;
mod choice;
mod config;
mod error;
mod experts;
mod file;
mod fit;
mod keys;
mod lanes;
mod ledger;
mod map;
mod memory;
mod optimiser;
mod selection;
mod table;
mod wrap;

pub use bank::{Experts, MemoryBank};
pub use choice::{Background, Choice, colliding_pairs};
pub use config::{ExpertKind, MemoryConfig, TargetModules};
pub use error::{Error, Result};
pub use file::{Placement, Tensors, rows_file};
pub use keys::ProductKeys;
pub use ledger::{FactState, Ledger};
pub use memory::Memory;
pub use optimiser::{Gradients, RowOptimizer, RowStates, RowUpdate};
pub use selection::{Chosen, Selection};
pub use table::{ExpertShape, Table};
pub use wrap::Wrapping;

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
