//! From options to surgery: what is done to each slot of a model.

use std::collections::BTreeSet;

use lora::{Error, Originals, Result};
use tensor_core::{Embedding, Error as CoreError, Found, ModulePath, Projection};

use crate::{Dora, DoraConfig};

/// A choice of modules and what is done to them: hand its two surgeons to the model.
#[derive(Debug)]
pub struct Wrapping<'a> {
    lora: lora::Wrapping<'a>,
    exact_norm: bool,
    magnitude_only: BTreeSet<ModulePath>,
}

impl<'a> Wrapping<'a> {
    /// Chooses as [`lora::Wrapping::choose`] does; a token table cannot be decomposed.
    pub fn choose(config: &DoraConfig, projections: &[(ModulePath, bool)], tables: &[ModulePath]) -> Result<Self> {
        let magnitude_only: BTreeSet<ModulePath> = match config.magnitude_only()? {
            Some(modules) => {
                let all = projections.iter().map(|(path, output)| (path, *output));
                let chosen = modules.choose(all).map_err(|error| match error {
                    CoreError::NoMatch { what, hint } => CoreError::NoMatch {
                        what: what.replace("target_modules", "magnitude_only_modules"),
                        hint,
                    },
                    other => other,
                });
                chosen?.into_iter().collect()
            }
            None => BTreeSet::new(),
        };
        let lora = lora::Wrapping::choose(config.lora.clone(), projections, tables)?;
        if let Some(table) = tables.iter().find(|table| lora.is_chosen(table)) {
            return Err(Error::Option {
                option: "target_modules",
                found: format!("the token table `{table}`, which DoRA does not decompose"),
                hint: "use `kind = \"lora\"` for tables, or train it whole: `modules_to_save = [\"embed_tokens\"]`",
            });
        }
        if let Some(path) = magnitude_only.iter().find(|path| config.lora.is_saved_whole(path)) {
            return Err(Error::Option {
                option: "magnitude_only_modules",
                found: format!("`{path}`, which `modules_to_save` trains whole"),
                hint: "name it in one of the two",
            });
        }
        Ok(Self {
            lora,
            exact_norm: config.exact_norm,
            magnitude_only,
        })
    }

    /// With the weights from before quantising, which `init_lora_weights = "loftq"` begins from.
    #[must_use]
    pub fn with_originals(self, originals: Box<Originals<'a>>) -> Self {
        Self {
            lora: self.lora.with_originals(originals),
            ..self
        }
    }

    /// The modules that get an update and magnitudes, in order.
    pub fn decomposed(&self) -> impl Iterator<Item = &ModulePath> {
        self.lora.chosen().filter(|path| !self.magnitude_only.contains(*path))
    }

    /// The modules that get magnitudes alone, in order.
    pub fn magnitude_only(&self) -> impl Iterator<Item = &ModulePath> {
        self.magnitude_only.iter()
    }

    /// The modules that are trained whole, in order.
    pub fn whole(&self) -> impl Iterator<Item = &ModulePath> {
        self.lora.whole()
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        if self.magnitude_only.contains(at) {
            return Ok(Box::new(over(at, Dora::new(base, None))?));
        }
        if !self.lora.is_chosen(at) {
            return self.lora.projection(at, base);
        }
        let (base, low_rank) = self.lora.low_rank(at, base)?;
        let dora = over(at, Dora::new(base, Some(low_rank)))?
            .with_exact_norm(self.exact_norm)
            .with_dropout(self.lora.config().lora_dropout, at.site());
        Ok(Box::new(dora))
    }

    /// What is done to the token table at `at`.
    pub fn table(&self, at: &ModulePath, base: Box<dyn Embedding>) -> tensor_core::Result<Box<dyn Embedding>> {
        self.lora.table(at, base)
    }
}

/// What was made, or the error of its place.
pub(crate) fn over(at: &ModulePath, made: std::result::Result<Dora, Found>) -> tensor_core::Result<Dora> {
    made.map_err(|Found(found)| CoreError::NotDense {
        at: at.clone(),
        found,
        hint: "DoRA decomposes a frozen weight: put it first, and merge an adapter that is there",
    })
}
