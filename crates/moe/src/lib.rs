//! Mixtures of experts: routers, grouped experts, balance, upcycling and pruning.
//!
//! A layer of [`Experts`] is a sublayer: a [`Router`] gives each token to k of e experts, tokens are sorted by expert
//! ([`Dispatch`]), each expert computes all of its tokens in one go, and nothing is dropped. Experts are gated
//! feed-forwards in slots under the checkpoint's own paths, so surgery on projections reaches each of them.
//!
//! Fewer experts: [`keep_nearest`] tries every set, [`keep_most_used`] counts, [`merge_experts`] makes one of several
//! ([`Calibration`] on sample tokens); [`RouterConfig::skip_below`] leaves out a token's lesser experts while it runs.
//!
//! ```
//! use moe::{RouterConfig, Router, load_balancing_loss, max_violation, z_loss};
//! use tch::{Device, Kind, Tensor};
//! use tensor_core::{Param, Role};
//!
//! let logits = Tensor::from_slice(&[
//!     2.0f32, 1.0, 0.0, -1.0, //
//!     0.0, 0.5, 1.5, -0.5, //
//!     1.0, 1.2, -1.0, 0.3, //
//!     -0.2, 0.1, 0.4, 3.0,
//! ])
//! .view([4, 4]);
//! let matrix = Param::frozen(Tensor::eye(4, (Kind::Float, Device::Cpu)), Role::Router);
//! let routing = Router::new(matrix, RouterConfig::top(2))?.choose(&logits);
//! let chosen: Vec<i64> = routing.chosen.flatten(0, -1).try_into()?;
//! assert_eq!(chosen, [0, 1, 2, 1, 1, 0, 3, 2]);
//! assert!((routing.weights.double_value(&[0, 0]) - 0.731059).abs() < 1e-6);
//! let counts = routing.counts(4);
//! let aux = load_balancing_loss(&routing.probabilities, &counts).double_value(&[]);
//! assert!((aux - 1.946480).abs() < 1e-6);
//! assert!((z_loss(&logits).double_value(&[]) - 6.075987).abs() < 1e-5);
//! assert_eq!(max_violation(&[2.0, 3.0, 2.0, 1.0]), 0.5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod assign;
mod balance;
mod calibration;
mod dispatch;
mod error;
mod expert;
mod experts;
mod merge;
mod prune;
mod router;
mod upcycle;

pub use balance::{Balance, load_balancing_loss, max_violation, update_bias, z_loss};
pub use calibration::Calibration;
pub use dispatch::Dispatch;
pub use error::{Error, Result};
pub use expert::{Expert, Names};
pub use experts::{Experts, Shared};
pub use merge::{Groups, merge_experts};
pub use prune::{keep_most_used, keep_nearest};
pub use router::{BIAS, Gating, Router, RouterConfig, Routing};
pub use upcycle::{Part, UpcycleConfig};

// In the signatures here.
pub use kernels;
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
