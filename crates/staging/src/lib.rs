//! Files, folders and sets of files that appear whole or not at all, also after `kill -9` or a full disk.
//!
//! Three shapes, one rule: everything is written aside and synced, then takes its place in one system call.
//!
//! - a file: [`write_file`], [`StagedFile`];
//! - a folder that is not there yet: [`StagedDir::commit`];
//! - some files of a folder that also holds others: [`StagedDir::publish`], which replaces one generation of files by the
//!   next, so that a model can follow an adapter in the same folder and no reader ever finds parts of both.
//!
//! ```
//! use staging::{StagedDir, write_file};
//!
//! let home = tempfile::tempdir()?;
//! let run = home.path().join("run");
//! let adapter = StagedDir::create(&run)?;
//! write_file(&adapter.path().join("adapter_config.json"), b"{}")?;
//! adapter.publish(staging::is_model_file)?;
//!
//! let model = StagedDir::create(&run)?;
//! write_file(&model.path().join("config.json"), b"{}")?;
//! model.publish(staging::is_model_file)?;
//! assert!(run.join("config.json").is_file());
//! assert!(!run.join("adapter_config.json").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod disk;
mod error;
mod file;
mod folder;
mod forms;
mod generation;
mod leftover;
mod ordered;

pub use error::{Error, Result};
pub use file::{StagedFile, write_file};
pub use folder::{StagedDir, remove_dir, tidy};
pub use forms::{is_model_file, model_in};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
