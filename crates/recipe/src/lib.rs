//! A recipe as a text: a TOML file with overrides, of which every error says where, what was wanted, what was found.
//!
//! A [`Document`] is the file with the overrides of a command line (`train.seed=1`). Sections are read out of it one by one
//! into types; before serde sees a table, it is held against the type's schema (`schemars`), so that a key that there is
//! not, or a word that stands for nothing, is named with its line and the nearest name that there is. The same schemas,
//! composed, are what an editor completes and checks a recipe by.
//!
//! What a recipe means (models, methods, objectives) is not known here: their types need their crates, and those
//! libtorch. This crate needs neither, and reads any TOML that wants good errors.
//!
//! ```
//! use recipe::Document;
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//!
//! #[derive(Debug, Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Train {
//!     seed: u64,
//! }
//!
//! let text = "# a run\n[train]\nsede = 1\n".to_owned();
//! let document = Document::parse("run.toml".as_ref(), text, &[])?;
//! let error = document.section::<Train>("train", None).unwrap_err().to_string();
//! assert!(error.contains("`run.toml:3`: `train.sede`: no such key"), "{error}");
//! assert!(error.contains("did you mean `seed`?"), "{error}");
//! # Ok::<(), anyhow::Error>(())
//! ```

mod aliases;
mod check;
mod document;
mod overrides;
mod places;

pub use aliases::name_aliases;
pub use check::{keys_of, schema_of};
pub use document::{Document, listing, nearest};
pub use places::Places;

// In the signatures here.
pub use {anyhow, schemars, serde_json, toml};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
