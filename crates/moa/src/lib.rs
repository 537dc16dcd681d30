//! Mixtures of agents: layers of models that read each other's answers, and one that has the last word.
//!
//! An agent is a model behind an endpoint ([`Endpoints`]) or whatever else answers ([`Backend`]). A layer's agents are
//! asked at the same time; the next layer reads their answers, numbered, beside the user's own words; an agent that fails
//! is left out and reported. Nothing here knows of tensors.
//!
//! ```
//! use moa::{Backend, Endpoints, Failure, Message, Mixture, MoaConfig, Reply, Request};
//!
//! /// Says its name, and how many answers it has read.
//! struct Stub;
//!
//! impl Backend for Stub {
//!     fn respond(&mut self, requests: &[Request]) -> Vec<Result<Reply, Failure>> {
//!         let answer = |request: &Request| {
//!             let read = request.messages[0].content.matches("\n1. ").count();
//!             let text = format!("{} after {read}", request.agent);
//!             Ok(Reply { text, tokens: 3, attempts: 1 })
//!         };
//!         requests.iter().map(answer).collect()
//!     }
//! }
//!
//! let config: MoaConfig = serde_json::from_str(
//!     r#"{"agents": {"a": {"model": "x"}, "b": {"model": "x"}}, "layers": [["a", "b"]], "aggregator": "b"}"#,
//! )?;
//! let endpoints = Endpoints::of(&config, |_| None);
//! let mut local = Stub;
//! let outcome = Mixture::new(config, endpoints, &mut local)?.respond(&[Message::new("user", "Why?")], &mut ())?;
//! assert_eq!(outcome.text, "b after 1");
//! assert_eq!(outcome.calls.len(), 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod agent;
mod config;
mod endpoint;
mod error;
mod measure;
mod mixture;
mod prompt;
mod roles;
mod transcript;

pub use agent::{Backend, Message, Reply, Request};
pub use config::{AgentConfig, Aggregation, MoaConfig};
pub use endpoint::Endpoints;
pub use error::{Error, Failure, Result};
pub use measure::{copied, distinct};
pub use mixture::{Listener, Mixture};
pub use prompt::{CUT, RANKING, SYNTHESIS, cut, with_references};
pub use roles::{Roles, Worth, roles};
pub use transcript::{Call, Outcome};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
