//! Rows of training data: files in fourteen shapes, read strictly, as conversations, texts, preferences and labels.
//!
//! A [`Dataset`] is a file (JSON Lines, JSON, CSV, TSV, Parquet or text) whose rows have one [`Shape`]. Nothing of a row
//! vanishes without a word: what cannot be read is an error that names file, line, key, what was wanted and what was found.
//! What rows become for a model (templates, tokens, packed batches) is the crate `data`'s.
//!
//! # Rows
//!
//! A file's first row says its [`Shape`] by its columns, and every other row must have the same one. Of shapes that fit,
//! the one with more columns wins, then the one without empty columns; of the rest a fixed precedence decides, if the
//! columns of the others say the same (`UltraChat`'s `prompt` is the first of its `messages`), else the row is refused.
//! [`ReadConfig`] chooses a shape and maps columns of other names.
//!
//! - A string is a string: only cells of CSV and Parquet tables that are JSON of turns are decoded, and `tools` and the
//!   arguments of calls, which are never text.
//! - Null, an empty text, list or object are absent.
//! - `system` is the system turn of a conversation in every shape; beside plain texts it is refused.
//! - No part of a prompt vanishes: a prompt is not guessed while a column may hold it, a column of text that nothing reads
//!   is a remark ([`Dataset::remarks`]), pictures are refused, and so are a turn's text and a tool call that the chat
//!   template does not show ([`Problem::NotShown`]).
//!
//! ```
//! use rows::{Dataset, ReadConfig, Shape};
//! use std::path::Path;
//!
//! let line = br#"{"system": "Be brief.", "question": "Capital?", "chosen": "It is Paris.", "rejected": "It is Rome."}"#;
//! let read = |config: &ReadConfig| Dataset::parse(Path::new("pairs.jsonl"), line, config);
//! assert!(read(&ReadConfig::default()).is_err());
//!
//! let columns = [("instruction".to_owned(), "question".to_owned())].into();
//! let rows = read(&ReadConfig { columns, ..ReadConfig::default() })?;
//! assert_eq!(rows.shape(), Shape::AlpacaPreference);
//! assert_eq!(rows.row(0).input(), "system\nBe brief.\nuser\nCapital?\n");
//! # Ok::<(), rows::Error>(())
//! ```
//!
//! `docs/data.md` shows a row of each shape.

mod calls;
mod cells;
mod columns;
mod dataset;
mod error;
mod form;
mod label;
mod message;
mod normalise;
mod random;
mod read;
mod row;
mod shape;
mod unused;

pub use dataset::{Dataset, HeldOut, digest};
pub use error::{Error, Place, Problem, Unit, io, quoted};
pub use form::PromptForm;
pub use label::label_names;
pub use message::{Chat, Message, brief, is_absent};
pub use normalise::question;
pub use random::Random;
pub use read::{Placed, ReadConfig, SampleBy, objects};
pub use row::{Exchange, Label, Prompt, Row};
pub use shape::Shape;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
