//! Which facts are known: visited in passes until every one is, or its steps are spent.
//!
//! A pass goes over the facts that are not known yet, in an order of its own; a fact whose loss is under the target when
//! it is visited is known and left alone. When none is left a pass goes over all of them, because what one fact wrote
//! may have touched another's rows; a fact that was lost so is learnt again. The ledger is done when such a pass finds
//! every fact known or spent. Everything depends on seed, pass and losses alone, so a resumed ledger goes on alike.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// What is known of one fact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FactState {
    /// Its loss when it was last visited, in nats a token; none before.
    pub loss: Option<f64>,
    /// Steps that it was trained in.
    pub steps: usize,
    /// Whether that loss was under the target.
    pub is_known: bool,
}

/// All facts of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    target_loss: f64,
    max_steps: usize,
    seed: u64,
    batch: usize,
    facts: Vec<FactState>,
    queue: VecDeque<usize>,
    pass: u64,
    goes_over_all: bool,
    is_done: bool,
}

impl Ledger {
    /// Of `num_facts` facts, visited `batch` at a time, each until its loss is under `target_loss` or `max_steps` are
    /// spent.
    pub fn new(num_facts: usize, batch: usize, target_loss: f64, max_steps: usize, seed: u64) -> Self {
        let mut ledger = Self {
            target_loss,
            max_steps,
            seed,
            batch: batch.max(1),
            facts: vec![FactState::default(); num_facts],
            queue: VecDeque::new(),
            pass: 0,
            goes_over_all: true,
            is_done: num_facts == 0,
        };
        ledger.queue = ledger.shuffled(|_| true);
        ledger
    }

    /// The facts of the present step.
    pub fn batch(&self) -> Vec<usize> {
        self.queue.iter().take(self.batch).copied().collect()
    }

    /// Steps of a pass over all facts.
    pub fn steps_per_pass(&self) -> usize {
        self.facts.len().div_ceil(self.batch)
    }

    /// Notes a fact's loss before this step; whether the step trains it.
    pub fn visit(&mut self, fact: usize, loss: f64) -> bool {
        let state = &mut self.facts[fact];
        state.loss = Some(loss);
        state.is_known = loss < self.target_loss;
        !state.is_known && state.steps < self.max_steps
    }

    /// Ends the step, in which `trained` facts were trained.
    pub fn end_step(&mut self, trained: &[usize]) {
        for &fact in trained {
            self.facts[fact].steps += 1;
        }
        self.queue.drain(..self.batch.min(self.queue.len()));
        if !self.queue.is_empty() || self.is_done {
            return;
        }
        self.pass += 1;
        let max_steps = self.max_steps;
        self.queue = self.shuffled(|state| !state.is_known && state.steps < max_steps);
        if self.queue.is_empty() && self.goes_over_all {
            self.is_done = true;
            return;
        }
        self.goes_over_all = self.queue.is_empty() || self.queue.len() == self.facts.len();
        if self.queue.is_empty() {
            self.queue = self.shuffled(|_| true);
        }
    }

    /// Whether every fact is known or spent.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Every fact's state.
    pub fn facts(&self) -> &[FactState] {
        &self.facts
    }

    /// Facts whose last loss was under the target.
    pub fn num_known(&self) -> usize {
        self.facts.iter().filter(|state| state.is_known).count()
    }

    fn shuffled(&self, is_wanted: impl Fn(&FactState) -> bool) -> VecDeque<usize> {
        let mut facts: Vec<usize> = (0..self.facts.len())
            .filter(|&fact| is_wanted(&self.facts[fact]))
            .collect();
        let mut rng = StdRng::seed_from_u64(self.seed);
        let pass_seed = rng.random::<u64>() ^ self.pass.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        facts.shuffle(&mut StdRng::seed_from_u64(pass_seed));
        facts.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trains until done; each fact needs as many steps as `needs` says, and `lost` are lost once, after they were known.
    fn run(needs: &[usize], batch: usize, max_steps: usize, lost: &[usize]) -> (Ledger, usize) {
        let mut ledger = Ledger::new(needs.len(), batch, 0.1, max_steps, 3);
        let mut done = vec![0; needs.len()];
        let mut to_lose: Vec<usize> = lost.to_vec();
        let mut steps = 0;
        while !ledger.is_done() {
            assert!(steps < 1000, "it never ends");
            let facts = ledger.batch();
            assert!(!facts.is_empty() && facts.len() <= batch);
            let trained: Vec<usize> = facts
                .into_iter()
                .filter(|&fact| ledger.visit(fact, if done[fact] >= needs[fact] { 0.0 } else { 1.0 }))
                .collect();
            for &fact in &trained {
                done[fact] += 1;
            }
            ledger.end_step(&trained);
            steps += 1;
            if ledger.num_known() == needs.len() {
                to_lose.drain(..).for_each(|fact| done[fact] -= 1);
            }
        }
        (ledger, steps)
    }

    #[test]
    fn each_fact_gets_the_steps_that_it_needs() {
        let (ledger, steps) = run(&[0, 3, 1, 2, 5], 2, 100, &[]);
        let each: Vec<usize> = ledger.facts().iter().map(|state| state.steps).collect();
        assert_eq!((each.as_slice(), ledger.num_known()), (&[0, 3, 1, 2, 5][..], 5));
        // Passes over 5, 4, 3, 2, 1 and 1 facts, two at a time, and one over all.
        assert_eq!(steps, 3 + 2 + 2 + 1 + 1 + 1 + 3);
    }

    #[test]
    fn a_fact_that_was_lost_is_learnt_again() {
        let (ledger, _) = run(&[1, 2, 3], 1, 100, &[1]);
        assert_eq!((ledger.facts()[1].steps, ledger.num_known()), (3, 3));
    }

    #[test]
    fn a_fact_that_cannot_be_learnt_spends_its_steps() {
        let (ledger, _) = run(&[1, 50], 2, 7, &[]);
        assert_eq!(
            (ledger.facts()[1].steps, ledger.facts()[1].is_known, ledger.num_known()),
            (7, false, 1)
        );
    }

    #[test]
    fn a_ledger_goes_on_from_its_text() {
        let mut ledger = Ledger::new(7, 3, 0.1, 9, 5);
        for _ in 0..4 {
            for fact in ledger.batch() {
                ledger.visit(fact, if fact == 2 { 0.0 } else { 1.0 / 3.0 });
            }
            ledger.end_step(&ledger.batch());
        }
        let again: Ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
        assert_eq!(again, ledger);
        assert!(!again.batch().contains(&2));
    }
}
