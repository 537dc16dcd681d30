//! What a method adds to a model, trains of it and packs of it, counted from shapes alone.

use checkpoint::ModelConfig;

/// A model before it is loaded.
#[derive(Clone, Copy, Debug)]
pub struct ModelShape<'a> {
    /// Its configuration, with the recipe's head and experts.
    pub config: &'a ModelConfig,
    /// Names and shapes of its tensors.
    pub tensors: &'a [(String, Vec<i64>)],
    /// Tokens of the data that are learnt.
    pub learnt_tokens: usize,
}

impl ModelShape<'_> {
    /// Numbers of the tensors whose name `is_meant`.
    pub fn numbers(&self, is_meant: impl Fn(&str) -> bool) -> f64 {
        let meant = self.tensors.iter().filter(|(name, _)| is_meant(name));
        meant.map(|(_, shape)| shape.iter().product::<i64>() as f64).sum()
    }
}

/// Counts of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Numbers that train beside the base.
    pub added: f64,
    /// Numbers of the base that train.
    pub unfrozen: f64,
    /// What is packed of the base.
    pub packed: Packed,
}

/// Weights in 4 or 8 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Packed {
    /// Numbers of the base that are packed.
    pub numbers: f64,
    /// The bytes that they take.
    pub bytes: f64,
    /// Numbers of the largest packed matrix, which is dense for the length of a product.
    pub largest: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.unfrozen += other.unfrozen;
        self.packed.numbers += other.packed.numbers;
        self.packed.bytes += other.packed.bytes;
        self.packed.largest = self.packed.largest.max(other.packed.largest);
    }
}
