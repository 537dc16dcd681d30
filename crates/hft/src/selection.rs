//! What one round freezes and trains.

use std::collections::BTreeSet;

use tensor_core::ModulePath;

/// How much of a category trains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// `attention`, `feed-forward`, `norms`, `embedding`, ….
    pub category: String,
    /// Its tensors that train.
    pub trained_tensors: usize,
    /// All of its tensors.
    pub tensors: usize,
    /// Its numbers that train.
    pub trained_numbers: usize,
    /// All of its numbers.
    pub numbers: usize,
}

impl Share {
    /// The share of its numbers that trains.
    pub fn trained_share(&self) -> f64 {
        self.trained_numbers as f64 / self.numbers.max(1) as f64
    }
}

/// One round's choice: these parameters stay, all others train.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfSelection {
    pub(crate) frozen: BTreeSet<ModulePath>,
    pub(crate) shares: Vec<Share>,
}

impl HalfSelection {
    /// Whether the parameter at `path` trains.
    pub fn trains(&self, path: &ModulePath) -> bool {
        !self.frozen.contains(path)
    }

    /// What stays: paths of parameters.
    pub fn frozen(&self) -> &BTreeSet<ModulePath> {
        &self.frozen
    }

    /// The share of all numbers that trains.
    pub fn trained_share(&self) -> f64 {
        self.trained_numbers() as f64 / self.shares.iter().map(|share| share.numbers).sum::<usize>().max(1) as f64
    }

    /// How many numbers train.
    pub fn trained_numbers(&self) -> usize {
        self.shares.iter().map(|share| share.trained_numbers).sum()
    }

    /// How much of each category trains, in the model's order.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }
}
