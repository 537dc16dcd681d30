//! A run, and a loaded model, as values.
//!
//! [`training::run`] takes a recipe to files: it opens the base, reads the data, applies the methods, fits, evaluates and
//! saves. [`Loaded`] is a model in memory with its adapters, ready to answer. Neither prints, catches a signal or ends the
//! process: what there is to tell goes to [`events::Events`], and a flag stops a run after its present step, saved. So
//! several runs may go side by side in one process, in folders of their own, and give the files that they give alone; a
//! command line, a server or a sweep stands on them.

pub mod adapters;
pub mod agents;
pub mod classifier;
pub mod convert;
pub mod evaluation;
mod loaded;
pub mod rewards;
pub mod training;

pub use loaded::{Loaded, Opened};
pub use training::{Begin, Watch, run};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
