//! Bottleneck adapters: a narrow layer behind each sublayer, or beside it, while the model stays frozen.
//!
//! `a(h) = h + s · (W_up φ(W_down h + b_down) + b_up)`. Behind attention and feed-forward: Houlsby et al. 2019,
//! arXiv:1902.00751; behind the feed-forward: Pfeiffer et al. 2021, arXiv:2005.00247; beside it, on the sublayer's input:
//! He et al. 2022, arXiv:2110.04366. Names and defaults are AdapterHub's, but that adapters begin as nothing
//! (`init_weights = "zero"`).
//!
//! Deviations: the sublayer's input is what its norm gave, where AdapterHub's parallel adapters on Llama read the stream
//! before it; and an adapter behind a sublayer reads that sublayer's output alone (`original_ln_before = false`).
//! An adapter is not linear, so it cannot be merged into a weight.
//!
//! Shapes: t tokens, d model width, m bottleneck; `W_down` `[m, d]`, `W_up` `[d, m]`.
//!
//! ```
//! use adapters::AdapterConfig;
//!
//! let config: AdapterConfig = serde_json::from_str(r#"{"config": "double_seq_bn", "reduction_factor": 9}"#)?;
//! // Two adapters a layer of 2·64·576 weights, 64 and 576 biases.
//! assert_eq!(config.num_parameters(576, 30), 30 * 2 * (2 * 64 * 576 + 64 + 576));
//! # Ok::<(), serde_json::Error>(())
//! ```

mod activation;
mod bottleneck;
mod config;
mod error;
mod file;
mod init;
mod insert;
mod place;
mod sublayer;

pub use activation::Activation;
pub use bottleneck::Bottleneck;
pub use config::{AdapterConfig, InitWeights, Preset, ReductionFactor, Scaling};
pub use error::{Error, Result};
pub use file::{About, adapter_tensors, from_adapter_config, to_adapter_config};
pub use insert::Insertion;
pub use place::Placement;
pub use sublayer::Adapted;

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
