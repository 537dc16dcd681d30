//! Text in, packed rows of tokens out.
//!
//! [`Dataset`] reads a file and recognises its rows, [`encode`] makes tokens of a row and marks those to learn,
//! [`TokenSet`] does that for a whole set and keeps it on disk, [`Mixture`] orders several sets, and [`Batches`] packs
//! each optimiser step's documents into rows. Nothing here knows of tensors.
//!
//! ```
//! use data::{BatchConfig, Batches, Dataset, EncodeConfig, ReadConfig, Shape, SpecialTokens, TokenSet, Tokenizer};
//! use std::path::Path;
//! use tokenizers::models::wordlevel::WordLevel;
//! use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
//!
//! let words = [("2", 0), ("+", 1), ("is", 2), ("4", 3), ("<end>", 4)];
//! let vocab = words.map(|(word, id)| (word.to_owned(), id)).into_iter().collect();
//! let model = WordLevel::builder().vocab(vocab).unk_token("is".to_owned()).build().unwrap();
//! let mut words = tokenizers::Tokenizer::new(model);
//! words.with_pre_tokenizer(Some(WhitespaceSplit));
//! let tokenizer = Tokenizer::from_parts(words, SpecialTokens::new([("eos_token", "<end>")]), None)?;
//!
//! let file = br#"{"prompt": "2 + 2 is", "completion": " 4"}"#;
//! let rows = Dataset::parse(Path::new("sums.jsonl"), file, &ReadConfig::default())?;
//! assert_eq!(rows.shape(), Shape::PromptCompletion);
//!
//! let set = TokenSet::build(&rows, &tokenizer, &EncodeConfig::default(), None, &|_| {})?;
//! let step = Batches::sequential(&set, BatchConfig::default())?.step(0)?;
//! assert_eq!(step.rows[0].tokens, [0, 1, 0, 2, 3, 4]);
//! // Only the completion and the end are learnt, each predicted by the token before.
//! assert_eq!(step.rows[0].targets, [-100, -100, -100, 3, 4, -100]);
//! # Ok::<(), data::Error>(())
//! ```
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
//! use data::{Dataset, ReadConfig, Shape};
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
//! # Ok::<(), data::Error>(())
//! ```
//!
//! `docs/data.md` shows a row of each shape.

mod batches;
mod calls;
mod cells;
mod columns;
mod control;
mod dataset;
mod encode;
mod ends;
mod error;
mod files;
mod form;
mod label;
mod message;
mod mixture;
mod normalise;
mod packing;
mod random;
mod read;
mod remarks;
mod row;
mod shape;
mod show;
mod shown;
mod spans;
mod special;
mod stream;
mod template;
mod tokenizer;
mod tokens;
mod unused;

pub use batches::{BatchConfig, Batches, Step};
pub use control::ControlTokens;
pub use dataset::{Dataset, HeldOut};
pub use encode::{EncodeConfig, Overflow, Reject, Sample, Tokenized, encode};
pub use ends::{NamedEnds, Surroundings};
pub use error::{Error, Place, Problem, Unit};
pub use files::TokenizerFiles;
pub use form::PromptForm;
pub use label::label_names;
pub use message::{Chat, Message};
pub use mixture::{Arrange, MixStrategy, Mixture, Part, Pick};
pub use normalise::question;
pub use packing::{DocumentId, IGNORED, Packed, best_fit};
pub use read::{Placed, ReadConfig, SampleBy, objects};
pub use remarks::remarks;
pub use row::{Exchange, Label, Prompt, Row};
pub use shape::Shape;
pub use show::{Stretch, stretches, to_ansi};
pub use special::SpecialTokens;
pub use stream::TextStream;
pub use template::{ChatTemplate, ChatTemplates, Ending, Rendered, TemplateSources};
pub use tokenizer::{Pieces, Tokenizer};
pub use tokens::{Report, TokenSet};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
