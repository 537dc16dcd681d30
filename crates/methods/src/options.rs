//! A `[[surgery]]` of a recipe, as a method reads it.

use anyhow::Result;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use ::recipe::{Document, Places};

/// The table of one method.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The recipe.
    pub document: &'a Document,
    /// The key of the table: `surgery.0`.
    pub at: &'a str,
    /// The run's seed, for a method without one of its own.
    pub seed: u64,
    /// Where files lie that the table names.
    pub(crate) places: &'a Places,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Options<'_> {
    /// All keys but `kind`.
    pub fn read<T: DeserializeOwned + JsonSchema + Default>(&self) -> Result<T> {
        Ok(self.document.section(self.at, Some("kind"))?.unwrap_or_default())
    }

    /// The keys that `is_wanted`; none if there is no table.
    pub fn part<T: DeserializeOwned + JsonSchema>(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Option<T>> {
        self.document.part(self.at, is_wanted)
    }

    /// Whether the table gives one of `keys`.
    pub fn gives(&self, keys: &[&str]) -> Result<bool> {
        let table = self.document.table(self.at)?;
        Ok(table.is_some_and(|table| keys.iter().any(|key| table.contains_key(*key))))
    }

    /// An error of the table.
    pub fn error(&self, what: &str) -> anyhow::Error {
        self.document.error(self.at, what, None)
    }

    /// An error of its key `key`.
    pub fn error_at(&self, key: &str, what: &str) -> anyhow::Error {
        self.document.error(&format!("{}.{key}", self.at), what, None)
    }
}
