//! What cannot go together in a recipe: the rules of each method, and those that ask only what a method trains.
//!
//! The recipe's reader, training and `estimate` ask them before anything is computed or written; the tests that walk every
//! method over every base hold them against what really happens, and write `docs/combinations.md` from them.

pub(crate) mod modules;
mod rules;

use anyhow::{Result, anyhow};
use checkpoint::ModelDir;
use models::experts::RouterOptions;
use quant::QuantizeConfig;

use super::{Document, ObjectiveConfig, Recipe, Surgery};
use crate::{self as methods, METHODS, Trains};

/// What a recipe puts together.
#[derive(Clone, Copy, Debug)]
pub struct Combination<'a> {
    /// The surgeries, in order.
    pub surgery: &'a [Surgery],
    /// What is minimised.
    pub objective: &'a ObjectiveConfig,
    /// How experts are chosen.
    pub router: Option<&'a RouterOptions>,
    /// The model, once it is found. Rules that ask for it are not met before.
    pub base: Option<&'a ModelDir>,
}

/// A combination that cannot work.
#[derive(Debug)]
pub struct Rule {
    /// What it is called in tests and documents.
    pub name: &'static str,
    /// The combination, for the documents; `{adapters}`, `{beside}`, `{weights}`, `{reshaping}` and `{idle}` stand for the
    /// names of the methods that are so.
    pub(crate) combination: &'static str,
    /// Why it cannot work, as the error says it.
    pub why: &'static str,
    /// What to do instead.
    pub hint: &'static str,
    /// The key at which a recipe meets it; none if it does not.
    pub(crate) meets: fn(&Combination) -> Option<String>,
}

/// Every rule, in the order in which they are asked: those of each method, then those of all.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    METHODS.iter().flat_map(|method| method.rules).chain(rules::RULES)
}

impl Rule {
    /// The combination in words, with the names of the methods.
    pub fn combination(&self) -> String {
        let trains = |wanted: Trains| methods::names(|method| method.trains == wanted);
        self.combination
            .replace("{adapters}", &methods::names(|method| method.trains.is_adapter()))
            .replace("{beside}", &trains(Trains::Beside))
            .replace("{weights}", &trains(Trains::Weights))
            .replace("{reshaping}", &methods::names(|method| method.reshapes))
            .replace("{idle}", &trains(Trains::Nothing))
    }
}

/// A rule that a recipe meets.
#[derive(Debug)]
pub struct Refusal {
    /// The rule.
    pub rule: &'static Rule,
    /// The key of the recipe at which it is met.
    pub at: String,
}

impl Refusal {
    /// The reason and the hint.
    pub fn message(&self) -> String {
        format!("{}\nhint: {}", self.rule.why, self.rule.hint)
    }
}

/// The first rule that `combination` meets; those that need no model come first, as a recipe's reader asks them.
pub fn refusal(combination: &Combination) -> Option<Refusal> {
    let met = |combination: &Combination| {
        rules().find_map(|rule| {
            let at = (rule.meets)(combination)?;
            Some(Refusal { rule, at })
        })
    };
    let alone = Combination {
        base: None,
        ..*combination
    };
    met(&alone).or_else(|| met(combination))
}

impl Recipe {
    /// What it puts together, over `base` if that is known.
    pub fn combination<'a>(&'a self, base: Option<&'a ModelDir>) -> Combination<'a> {
        Combination {
            surgery: &self.surgery,
            objective: &self.objective,
            router: self.router.as_ref(),
            base,
        }
    }

    /// Refuses what cannot work over this model.
    pub fn fits(&self, base: &ModelDir) -> Result<()> {
        match refusal(&self.combination(Some(base))) {
            None => Ok(()),
            Some(refusal) => Err(anyhow!("`{}`: {}", refusal.at, refusal.message())),
        }
    }
}

/// Refuses what cannot work over any model, with the place in the recipe.
pub(super) fn check(recipe: &Recipe, document: &Document) -> Result<()> {
    match refusal(&recipe.combination(None)) {
        None => Ok(()),
        Some(refusal) => Err(document.error(&refusal.at, &refusal.message(), None)),
    }
}

impl Combination<'_> {
    /// The key of the first surgery of the method `kind` for which `is_met`, given those before it.
    pub(crate) fn kind_where(&self, kind: &str, is_met: impl Fn(&[Surgery]) -> bool) -> Option<String> {
        self.surgery_where(|surgery, before| surgery.kind() == kind && is_met(before))
    }

    /// Whether one of the surgeries is of the method `kind`.
    pub(crate) fn has_kind(&self, kind: &str) -> bool {
        self.has(|surgery| surgery.kind() == kind)
    }

    /// Whether a memory of facts is what is minimised.
    pub(crate) fn learns_facts(&self) -> bool {
        matches!(self.objective, ObjectiveConfig::Memory(_))
    }

    /// The key of the first surgery that `is_meant`, given its place and those before it.
    pub(crate) fn surgery_where(&self, is_meant: impl Fn(&Surgery, &[Surgery]) -> bool) -> Option<String> {
        let idx = (0..self.surgery.len()).find(|&idx| is_meant(&self.surgery[idx], &self.surgery[..idx]))?;
        Some(format!("surgery.{idx}.kind"))
    }

    /// Whether one of the surgeries `is_meant`.
    pub(crate) fn has(&self, is_meant: impl Fn(&Surgery) -> bool) -> bool {
        self.surgery.iter().any(is_meant)
    }

    /// Whether the recipe packs the weights.
    pub(crate) fn quantizes(&self) -> bool {
        self.packing().is_some()
    }

    /// How the recipe packs the weights.
    pub(crate) fn packing(&self) -> Option<&QuantizeConfig> {
        self.surgery.first()?.packs()
    }

    /// Whether the model's weights are packed in its files.
    pub(crate) fn is_packed(&self) -> bool {
        self.base.is_some_and(|base| base.config().is_quantised())
    }
}
