//! Stages and studies of fine-tuning as TOML files: every command is run once, measured, and told in one report.
//!
//! Two kinds of file. A pipeline has `[[stage]]`s: each builds on those before it, and the report says what each gained and
//! cost. A study has `[[arm]]`s: ways of doing the same thing, each run with several seeds, with a table of means and
//! spreads, a plot, and verdicts on a claim. A stage or arm is a list of `finetune` commands; the program is a path that is
//! given, so that nothing here needs libtorch. What is finished is kept and not run again until its commands change.
//!
//! ```no_run
//! use pipeline::{Job, run};
//!
//! let store = fetch::Cache::from_env(|line| eprintln!("{line}"))?;
//! let outcome = run(&Job {
//!     file: "studies/dora.toml",
//!     binary: "/usr/local/bin/finetune".into(),
//!     store: &store,
//!     tools: &fetch::Tools::from_env(),
//!     output: None,
//!     page: None,
//!     seeds: Some(3),
//!     full: false,
//!     again: false,
//!     command: "finetune pipeline studies/dora.toml".into(),
//!     note: |line| eprintln!("{line}"),
//! })?;
//! println!("{}\n{}", outcome.table, outcome.page.display());
//! # Ok::<(), anyhow::Error>(())
//! ```

mod cell;
mod claim;
mod expression;
mod house;
mod measures;
mod page;
mod plot;
mod read;
mod report;
mod results;
mod rows;
mod run;
mod stages;
mod study;
mod study_file;
mod template;

pub use house::names;
pub use run::{Job, Outcome, run};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
