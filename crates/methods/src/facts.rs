//! Facts: documents of which an answer is learnt, and what is written of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use checkpoint::write_file;
use data::{IGNORED, TokenSet};
use memory_tuning::{FactState, MemoryBank};
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// One fact as tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The whole document.
    pub tokens: Vec<u32>,
    /// The positions whose next token is learnt.
    pub positions: Vec<usize>,
}

impl Fact {
    /// What is asked: everything before the first token that is learnt.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..=self.positions[0]]
    }

    /// The first piece of the answer.
    pub fn answer(&self) -> &[u32] {
        let first = self.positions[0];
        let length = self
            .positions
            .iter()
            .zip(first..)
            .take_while(|(at, wanted)| **at == *wanted)
            .count();
        &self.tokens[first + 1..=first + length]
    }

    /// What each position shall predict.
    pub fn targets(&self) -> Vec<i64> {
        let mut targets = vec![IGNORED; self.tokens.len()];
        for &at in &self.positions {
            targets[at] = i64::from(self.tokens[at + 1]);
        }
        targets
    }
}

/// Every document of these sets in which something is learnt, within each source's `max_samples`.
pub fn of_sets<'a>(sets: impl Iterator<Item = (&'a TokenSet, Option<usize>)>) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for (set, most) in sets {
        for sample in 0..set.len().min(most.unwrap_or(usize::MAX)) {
            for document in set.sample(sample)? {
                let learnt = document.trained.iter().enumerate().filter(|(_, trained)| **trained);
                let positions: Vec<usize> = learnt.map(|(at, _)| at - 1).collect();
                if !positions.is_empty() {
                    facts.push(Fact {
                        tokens: document.tokens,
                        positions,
                    });
                }
            }
        }
    }
    Ok(facts)
}

/// The facts that a recipe trains; an error where two have one question and different answers.
pub fn of_recipe(sets: &[TokenSet], recipe: &Recipe) -> Result<Vec<Fact>> {
    let sources = recipe.data.train.iter().map(|source| source.max_samples);
    let facts = of_sets(sets.iter().zip(sources))?;
    let mut answers: BTreeMap<&[u32], (usize, &[u32])> = BTreeMap::new();
    for (number, fact) in facts.iter().enumerate() {
        let (first, answer) = *answers.entry(fact.prompt()).or_insert((number, fact.answer()));
        if answer != fact.answer() {
            bail!(
                "`data.train`: facts {} and {} ask the same and answer differently, so only one of them can be known\n\
                 hint: remove one, or make their questions differ",
                first + 1,
                number + 1
            );
        }
    }
    Ok(facts)
}

/// One line of `facts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The fact.
    #[serde(flatten)]
    pub fact: Fact,
    /// How far it came.
    #[serde(flatten)]
    pub state: FactState,
    /// The experts that were trained on it, by projection.
    pub experts: BTreeMap<String, Vec<u32>>,
}

/// Beside a memory: what it was trained on, and which experts hold it.
pub const FACTS: &str = "facts.jsonl";

/// Facts with their states and experts (by fact, then by projection), as they are written.
pub fn written(facts: &[Fact], states: &[FactState], experts: &[Vec<Vec<u32>>], bank: &MemoryBank) -> Vec<Written> {
    let paths: Vec<String> = bank.paths().map(ToString::to_string).collect();
    let each = facts.iter().zip(states).zip(experts);
    each.map(|((fact, state), experts)| Written {
        fact: fact.clone(),
        state: *state,
        experts: paths.iter().cloned().zip(experts.iter().cloned()).collect(),
    })
    .collect()
}

/// Writes `facts.jsonl` into `folder`.
pub fn write(folder: &Path, facts: &[Written]) -> Result<()> {
    let mut text = String::new();
    for fact in facts {
        let _ = writeln!(text, "{}", serde_json::to_string(fact)?);
    }
    Ok(write_file(&folder.join(FACTS), text.as_bytes())?)
}

/// The facts of the memory in `folder`; none if nothing is written of them.
pub fn read(folder: &Path) -> Result<Vec<Written>> {
    let path = folder.join(FACTS);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let place = || format!("`{}`", path.display());
    let text = std::fs::read_to_string(&path).with_context(place)?;
    let lines = text.lines().enumerate();
    lines
        .map(|(idx, line)| serde_json::from_str(line).with_context(|| format!("{}, line {}", place(), idx + 1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_knows_its_question_and_its_answer() {
        // Two pieces are learnt: tokens 3 and 4, and token 6.
        let fact = Fact {
            tokens: vec![10, 11, 12, 13, 14, 15, 16],
            positions: vec![2, 3, 5],
        };
        assert_eq!((fact.prompt(), fact.answer()), (&[10, 11, 12][..], &[13, 14][..]));
        assert_eq!(fact.targets(), [IGNORED, IGNORED, 13, 14, IGNORED, 16, IGNORED]);
    }
}
