//! Half fine-tuning: each round freezes a random half of the matrices, which keep what the model knew.
//!
//! `θ = {ϑ, ψ}`; in round t only ϑ moves, `ϑᵗ = ϑᵗ⁻¹ - η ∇L(θᵗ⁻¹)`, `ψᵗ = ψᵗ⁻¹`; the next round draws again. Of each
//! layer 2 of 4 attention matrices are frozen, 2 of 3 feed-forward matrices in a random half of the layers and 1 of 3
//! in the other, and 1 of 2 norms; embedding, head and last norm train.
//!
//! Source: Hui et al. 2024, arXiv:2404.18466. Deviations: for a ratio other than a half every
//! category of every layer freezes its own share, rounded so that the whole comes nearest; `stratified` splits
//! attention of grouped queries by size. [`HalfSelection`] also serves the paper's Half-Reset: what it calls frozen
//! goes back to the pre-trained values ([`reset`]).
//!
//! ```
//! use hft::{Halves, HftConfig, Piece};
//! use tensor_core::{ModulePath, Role};
//!
//! let pieces: Vec<Piece> = (0..2)
//!     .flat_map(|layer| {
//!         let names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
//!         names.map(|name| {
//!             let path = ModulePath::from(format!("model.layers.{layer}.{name}.weight"));
//!             Piece { path, shape: vec![8, 8], role: Role::Base }
//!         })
//!     })
//!     .collect();
//! let halves = Halves::new(&HftConfig::default(), &pieces)?;
//! let selection = halves.draw(0);
//! assert_eq!(selection.frozen().len(), 4);
//! assert_eq!(selection.trained_share(), 0.5);
//! # Ok::<(), hft::Error>(())
//! ```

mod config;
mod draw;
mod error;
mod halves;
mod piece;
mod pool;
mod resample;
mod reset;
mod selection;
mod store;

pub use config::{Granularity, HftConfig};
pub use error::{Error, Result};
pub use halves::Halves;
pub use piece::{Piece, pieces_of};
pub use resample::Resample;
pub use reset::{average, reset};
pub use selection::{HalfSelection, Share};
pub use store::{freeze, pieces_of_store};

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
