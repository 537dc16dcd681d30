//! Pruning: which weights a trained model can do without, and what the others do about it.
//!
//! [`magnitude`], [`wanda`] and [`sparse_gpt`] are functions of one matrix and of what was seen of its inputs
//! ([`InputNorms`], [`Gram`]); [`GlobalThreshold`] compares all matrices of a model. Each takes a [`Sparsity`]: a share, or a
//! pattern such as `2:4`, and gives a [`Mask`]. [`prune()`] does it to a whole model, block by block, by a [`PruneConfig`];
//! [`Masked`] keeps the zeros while what is left is trained on.
//!
//! Whole parts go by a [`Cut`]: blocks by [`block_influence`] or [`angular_distances`], heads and channels by [`units`].
//!
//! ```
//! use prune::{InputNorms, Mask, Per, Sparsity, magnitude, wanda};
//! use tch::Tensor;
//!
//! let weight = Tensor::from_slice(&[1.0f32, -4.0, 3.0, 2.0]).view([1, 4]);
//! let gone = |mask: Mask| Vec::<f32>::try_from(mask.apply(&weight).view([-1])).unwrap();
//! assert_eq!(gone(magnitude(&weight, Sparsity::share(0.5)?, Per::Row)?), [0.0, -4.0, 3.0, 0.0]);
//!
//! // The first input is strong, the second is weak.
//! let mut norms = InputNorms::new(4);
//! norms.add(&Tensor::from_slice(&[5.0f32, 0.1, 1.0, 1.0]).view([1, 4]));
//! assert_eq!(gone(wanda(&weight, &norms.norms(), Sparsity::Pattern("2:4".parse()?))?), [1.0, 0.0, 3.0, 0.0]);
//! # Ok::<(), prune::Error>(())
//! ```

mod calibration;
mod choose;
mod config;
mod cut;
mod error;
mod hessian;
mod influence;
mod magnitude;
mod mask;
mod masked;
mod prune;
mod sparse_gpt;
mod sparsity;
mod units;
mod wanda;

pub use calibration::Calibration;
pub use config::{Method, Plan, PruneConfig, Scope};
pub use cut::{Cut, Shape};
pub use error::{Error, Result};
pub use hessian::{Factor, Gram};
pub use influence::{angular_distances, block_influence, least_influential, least_run};
pub use magnitude::{GlobalThreshold, Per, magnitude};
pub use mask::Mask;
pub use masked::Masked;
pub use prune::{Operate, Thinned, prune};
pub use sparse_gpt::{Counting, Reconstruction, SparseGptConfig, sparse_gpt};
pub use sparsity::{Pattern, Sparsity};
pub use units::{Importance, Units, units};
pub use wanda::{InputNorms, wanda};

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
