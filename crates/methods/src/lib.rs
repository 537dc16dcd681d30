//! The registry of methods: what a `[[surgery]]` may be.
//!
//! A [`Method`] is an entry of [`METHODS`]: its name in a recipe, one sentence, how its options are read and how a folder
//! that holds its saved form is opened. Its options, once read, are an [`Adaptation`]: they apply the method to a model,
//! count what that costs, and answer what the rules of combinations ask. Each method is one file here; nothing outside
//! this folder lists them.

mod adaptation;
mod adapter;
mod apply;
pub mod bottleneck;
mod cost;
mod dora;
pub mod facts;
mod full;
pub mod hft;
mod ia3;
mod keep_zeros;
mod lora;
mod low_rank;
pub mod memories;
mod memory;
mod missing;
mod options;
pub mod peft;
mod prune;
pub mod pruning;
mod quantize;
pub mod recipe;
mod saved;
mod upcycle;

use anyhow::Result;
use schemars::{Schema, SchemaGenerator};

pub use self::adaptation::{Adaptation, Resolved, Trains};
use self::apply::adaptable;
pub use self::apply::{Adapted, Adapting, Context, apply, load};
pub use self::cost::{Cost, ModelShape, Packed};
pub use self::full::FullConfig;
pub use self::keep_zeros::KeepZerosConfig;
pub use self::missing::refuse_missing;
pub use self::options::Options;
pub use self::prune::PruneOptions;
pub use self::saved::{
    Attached, Merging, Saved, SavedForm, SavedFormat, facts, format_of, holds_adapter, open, open_to_merge, peft_type,
};
use crate::recipe::Surgery;
use crate::recipe::combinations::Rule;

/// A method, as the recipe's reader, the help, the documents and the tests know it.
#[derive(Debug)]
pub struct Method {
    /// Its name in a recipe: `kind = "lora"`.
    pub kind: &'static str,
    /// What it does, in one sentence without a final period.
    pub summary: &'static str,
    /// What its options are: for editors, for the reference of recipes, and for messages.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Options of a small run, as lines of a recipe: what the law matrix trains.
    pub example: &'static str,
    /// What it makes train.
    pub trains: Trains,
    /// Whether it rewrites the model's weights before the first step, so that no saved adapter can stand over them.
    pub reshapes: bool,
    /// Reads its options; the errors name the place in the recipe.
    pub parse: fn(&Options) -> Result<Surgery>,
    /// What it cannot go together with.
    pub rules: &'static [Rule],
    /// How its saved form is recognised and opened, where that is not a whole model.
    pub format: Option<&'static SavedFormat>,
}

impl Method {
    /// Whether what it makes is saved without the base and can be merged into it.
    pub fn merges(&self) -> bool {
        self.trains.is_adapter() && self.format.is_none_or(|format| format.merges)
    }
}

/// Every method, in the order in which messages list them.
pub static METHODS: &[&Method] = &[
    &quantize::METHOD,
    &lora::METHOD,
    &dora::METHOD,
    &ia3::METHOD,
    &adapter::METHOD,
    &full::METHOD,
    &hft::METHOD,
    &upcycle::METHOD,
    &prune::METHOD,
    &keep_zeros::METHOD,
    &memory::METHOD,
];

/// The method of this name.
pub fn find(kind: &str) -> Option<&'static Method> {
    METHODS.iter().copied().find(|method| method.kind == kind)
}

/// The names of the methods, in the order of [`METHODS`].
pub fn kinds() -> Vec<&'static str> {
    METHODS.iter().map(|method| method.kind).collect()
}

/// The names of the methods that `is_meant`, as a sentence lists them: `` `lora`, `dora` or `memory` ``.
pub fn names(is_meant: impl Fn(&Method) -> bool) -> String {
    let named = METHODS.iter().filter(|method| is_meant(method));
    let names: Vec<String> = named.map(|method| format!("`{}`", method.kind)).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// A line for each method: its name and what it does.
pub fn summaries() -> String {
    let width = METHODS.iter().map(|method| method.kind.len()).max().unwrap_or(0);
    let lines = METHODS
        .iter()
        .map(|method| format!("  {:<width$}  {}", method.kind, method.summary));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
