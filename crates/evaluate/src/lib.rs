//! How good a model is: perplexity, choices, classes, exact answers, preferences, rewards of what it says, and what it
//! forgot.
//!
//! A [`Suite`] is a TOML file of tasks; [`evaluate`] runs it over a [`Scorer`] (any [`decoder::Decoder`]) and gives a
//! [`Report`], which [`compare`] holds against an earlier one, and [`continual`] against those of a whole sequence. Rows are packed as documents; logits are never kept.
//!
//! ```
//! use evaluate::{Metric, macro_f1};
//!
//! // Two classes, gold then predicted: class 0 has F1 2/3, class 1 has F1 4/5.
//! let confusion = vec![vec![1, 1], vec![0, 2]];
//! assert!((macro_f1(&confusion) - (2.0 / 3.0 + 4.0 / 5.0) / 2.0).abs() < 1e-12);
//! assert!(Metric::Perplexity.less_is_better());
//! ```

mod choice;
mod classify;
mod compare;
mod continual;
mod error;
mod exact;
mod packing;
mod pairs;
mod perplexity;
mod replies;
mod report;
mod rows;
mod run;
mod scorer;
mod sequence;
mod suite;

pub use classify::macro_f1;
pub use compare::{Change, compare, perplexity_ratio};
pub use continual::{Continual, Drift, Drifted, Stage, continual};
pub use error::{Error, Result};
pub use exact::word_f1;
pub use perplexity::unpredicted;
pub use report::{Metric, PlainPrompts, Report, TaskReport};
pub use run::evaluate;
pub use scorer::{Answer, Drawing, Judge, Said, Scorer, Verdict};
pub use sequence::Sequence;
pub use suite::{Kind, Normalise, Suite, Task};

// In the signatures here.
pub use decoder;
pub use tch;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
