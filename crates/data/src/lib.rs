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
//! Rows are the crate `rows`'s, which is exported here: files, their shapes, conversations.

mod batches;
mod control;
mod encode;
mod ends;
mod files;
mod mixture;
mod packing;
mod remarks;
mod show;
mod shown;
mod spans;
mod special;
mod stream;
mod template;
mod tokenizer;
mod tokens;

pub use batches::{BatchConfig, Batches, Step};
pub use control::ControlTokens;
pub use encode::{EncodeConfig, Overflow, Reject, Sample, Tokenized, encode};
pub use ends::{NamedEnds, Surroundings};
pub use files::TokenizerFiles;
pub use mixture::{Arrange, MixStrategy, Mixture, Part, Pick};
pub use packing::{DocumentId, IGNORED, Packed, best_fit};
pub use remarks::remarks;
pub use rows::{
    Chat, Dataset, Error, Exchange, HeldOut, Label, Message, Place, Placed, Problem, Prompt, PromptForm, ReadConfig,
    Row, SampleBy, Shape, Unit, label_names, objects, question,
};
pub use show::{Stretch, stretches, to_ansi};
pub use special::SpecialTokens;
pub use stream::TextStream;
pub use template::{ChatTemplate, ChatTemplates, Ending, Rendered, TemplateSources};
pub use tokenizer::{Pieces, Tokenizer};
pub use tokens::{Report, TokenSet};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
