//! Seams, parameters and libtorch access: what every other crate stands on.
//!
//! A model is an owned tree of typed slots. A slot holds a [`Projection`] (a matrix, however it is held) or a
//! [`Sublayer`] (what a block adds to the residual stream). A method is a function from what a slot holds to what it
//! shall hold: see [`Projection`] for why the seam has this form. A [`ModelPass`] runs a [`LanguageModel`] block by block
//! and walks the blocks back down with given gradients, keeping or recomputing each block's graph as its [`CheckpointingPolicy`] says.
//!
//! ```
//! use tch::{Kind, Tensor};
//! use tensor_core::{Dense, Documents, Param, Pass, Projection, Role};
//!
//! let weight = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([2, 2]);
//! let dense = Dense::new(Param::frozen(weight, Role::Base));
//! let documents = Documents::new(&[1]);
//! let y = dense.forward(&Tensor::from_slice(&[1.0f32, 1.0]).view([1, 2]), &Pass::evaluate(&documents));
//! assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [3.0, 7.0]);
//! ```

#![expect(
    clippy::inline_always,
    reason = "a kernel's parts must be inlined where its instructions are allowed"
)]

mod adapter_routing;
mod dense;
mod documents;
mod embedding;
mod error;
mod frozen_cache;
mod model;
mod model_pass;
mod observed;
mod paged;
mod param;
mod pass;
mod path;
mod project;
mod projection;
mod sublayer;
mod tape;
mod targets;

pub mod autograd;
pub mod blob;
pub mod bridge;
pub mod device;
pub mod lists;
pub mod packed;
pub mod parallel;
mod shim;
pub mod tile;
pub mod vector;

pub use adapter_routing::{AdapterRouting, AdapterRoutings};
pub use dense::Dense;
pub use documents::Documents;
pub use embedding::{Embedding, EmbeddingSurgeon, Table};
pub use error::{Error, Found, Result};
pub use frozen_cache::FrozenCache;
pub use gemm::unit::{self, Unit};
pub use model::LanguageModel;
pub use model_pass::{Loss, ModelPass, Objective};
pub use observed::{Observed, OnInput};
pub use paged::{Paged, allocate};
pub use param::{Param, Parameters, Role, Stamp, named_params, num_params};
pub use pass::{DropoutKey, Pass, PastKeyValues, SideLosses, Tally};
pub use path::ModulePath;
pub use project::{Finish, Parts, Update, Way, over_frozen, project};
pub use projection::{FrozenMap, Linear, Projection, ProjectionSurgeon};
pub use sublayer::{Sublayer, SublayerSurgeon};
pub use tape::{Checkpointing, CheckpointingPolicy};
pub use targets::{Modules, Targets};

// In the signatures here.
pub use {gemm, tch};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
