//! Which of the experts that a fact meets are trained: all of them, or those that hardly anything else meets.
//!
//! `tf-idf(e) = c(e) / Σ c · ln((D + 1) / (D_e + 1))`: c(e) counts e among the choices of the fact's answer, `D_e`
//! the background documents (of D) in which any token chose e. Training only the t highest leaves alone what general text
//! uses.
//!
//! Source: Lin et al. 2025, arXiv:2510.15103, section 3. Deviation: counted for a fact, not for a batch of them, so that a
//! fact's rows are the same in whatever batch it comes.

use std::collections::{BTreeMap, HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the experts that a fact trains are chosen among those it meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// All of them.
    #[default]
    All,
    /// The `slots` highest by TF-IDF.
    TfIdf,
}

/// How many documents of a background use each expert.
#[derive(Clone, Debug, Default)]
pub struct Background {
    documents: usize,
    uses: HashMap<u32, usize>,
}

impl Background {
    /// Counts one more document, whose tokens chose these experts.
    pub fn add(&mut self, experts: impl IntoIterator<Item = u32>) {
        self.documents += 1;
        let once: HashSet<u32> = experts.into_iter().collect();
        for expert in once {
            *self.uses.entry(expert).or_default() += 1;
        }
    }

    /// `ln((D + 1) / (D_e + 1))`.
    pub fn idf(&self, expert: u32) -> f64 {
        let uses = self.uses.get(&expert).copied().unwrap_or(0);
        ((self.documents + 1) as f64 / (uses + 1) as f64).ln()
    }

    /// The `slots` experts of highest TF-IDF among a fact's choices (an expert stands there as often as it was chosen),
    /// in order of their numbers. Of equals, the one that stands first: give the best of every token before any second.
    pub fn rarest(&self, choices: &[u32], slots: usize) -> Vec<u32> {
        let mut counts: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for (first, &expert) in choices.iter().enumerate() {
            counts.entry(expert).or_insert((0, first)).0 += 1;
        }
        let mut scored: Vec<(f64, usize, u32)> = counts
            .iter()
            .map(|(&expert, &(count, first))| {
                let tf = count as f64 / choices.len() as f64;
                (tf * self.idf(expert), first, expert)
            })
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut best: Vec<u32> = scored.into_iter().take(slots).map(|(_, _, expert)| expert).collect();
        best.sort_unstable();
        best
    }
}

/// Pairs of facts that share an expert, of all pairs.
pub fn colliding_pairs(facts: &[Vec<u32>]) -> (usize, usize) {
    let mut by_expert: HashMap<u32, Vec<u32>> = HashMap::new();
    for (fact, experts) in facts.iter().enumerate() {
        for &expert in experts {
            by_expert.entry(expert).or_default().push(fact as u32);
        }
    }
    let mut pairs: HashSet<(u32, u32)> = HashSet::new();
    for sharing in by_expert.values() {
        for (at, &one) in sharing.iter().enumerate() {
            pairs.extend(sharing[at + 1..].iter().map(|&other| (one, other)));
        }
    }
    (pairs.len(), facts.len() * facts.len().saturating_sub(1) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf_idf_is_the_formula_s() {
        let mut background = Background::default();
        background.add([1, 1, 2]);
        background.add([1]);
        background.add([3]);
        // D = 3: ln(4/3) of expert 1 in two documents, ln(4/2) of 2 and 3, ln 4 of 9 in none.
        for (expert, wanted) in [(1, 4f64 / 3.0), (2, 2.0), (3, 2.0), (9, 4.0)] {
            assert!((background.idf(expert) - wanted.ln()).abs() < 1e-12, "{expert}");
        }
        // Of six choices: 1 three times (3/6 ln 4/3 = .144), 2 twice (2/6 ln 2 = .231), 9 once (1/6 ln 4 = .231).
        let choices = [1, 2, 1, 9, 2, 1];
        assert_eq!(background.rarest(&choices, 2), [2, 9]);
        assert_eq!(background.rarest(&choices, 1), [2]);
        assert_eq!(background.rarest(&choices, 9), [1, 2, 9]);
        assert_eq!(background.rarest(&[9, 2, 1, 1, 2, 1], 1), [9]);
    }

    #[test]
    fn facts_collide_where_they_share_an_expert() {
        assert_eq!(
            colliding_pairs(&[vec![1, 2], vec![2, 3], vec![4], vec![1, 2, 4]]),
            (4, 6)
        );
        assert_eq!(colliding_pairs(&[vec![1]]), (0, 0));
    }
}
