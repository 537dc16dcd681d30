//! The table of experts: N rows, of which those that were ever trained exist.
//!
//! A row is ρ factors u `[in]` (none for a value) and ρ factors v `[out]`. Until a row is touched it is what its seed
//! says, v = 0, which adds nothing: it needs no memory, no disk and no work.

use std::collections::HashMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};

use crate::map::MappedRows;
use crate::{Error, ExpertKind, MemoryConfig, Result};

/// What one row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertShape {
    /// Rank-ρ experts or values.
    pub kind: ExpertKind,
    /// ρ.
    pub rank: usize,
    /// Width of the adapted matrix's input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
}

impl ExpertShape {
    /// Of the experts beside a matrix `[outputs, inputs]`.
    pub fn new(config: &MemoryConfig, inputs: usize, outputs: usize) -> Self {
        Self {
            kind: config.expert,
            rank: config.expert_rank,
            inputs,
            outputs,
        }
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.first_width() + self.rank * self.outputs
    }

    /// Numbers of a row's factors u, which come first.
    pub fn first_width(&self) -> usize {
        match self.kind {
            ExpertKind::LowRank => self.rank * self.inputs,
            ExpertKind::Value => 0,
        }
    }
}

/// The rows that were touched, under their experts' numbers.
#[derive(Debug)]
pub struct Table {
    shape: ExpertShape,
    seed: u64,
    rows: MappedRows,
    ids: Vec<u32>,
    slots: HashMap<u32, u32>,
}

impl Table {
    /// No row touched; rows will begin as `seed` says.
    pub fn new(shape: ExpertShape, seed: u64) -> Self {
        Self {
            shape,
            seed,
            rows: MappedRows::new(shape.width()),
            ids: Vec::new(),
            slots: HashMap::new(),
        }
    }

    /// The rows of the file at `path`, which belong to the experts `ids` in that order. The file stays as it is.
    pub fn open(shape: ExpertShape, seed: u64, path: &Path, ids: Vec<u32>) -> Result<Self> {
        let rows = MappedRows::open(path, shape.width(), ids.len())?;
        let slots: HashMap<u32, u32> = ids.iter().zip(0..).map(|(&id, slot)| (id, slot)).collect();
        if slots.len() != ids.len() {
            return Err(Error::Format {
                path: path.to_owned(),
                wanted: "each expert once".into(),
                found: format!("{} rows of {} experts", ids.len(), slots.len()),
                hint: "the table's index is damaged; copy the folder again",
            });
        }
        Ok(Self {
            shape,
            seed,
            rows,
            ids,
            slots,
        })
    }

    /// What a row holds.
    pub fn shape(&self) -> ExpertShape {
        self.shape
    }

    /// The experts that were touched, in the order of their rows.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where an expert's row lies; none if it was never touched.
    pub fn slot(&self, id: u32) -> Option<usize> {
        self.slots.get(&id).map(|&slot| slot as usize)
    }

    /// The row of an expert, made if there is none.
    pub fn touch(&mut self, id: u32) -> Result<usize> {
        if let Some(slot) = self.slot(id) {
            return Ok(slot);
        }
        let slot = self.rows.push()?;
        let first = self.shape.first_width();
        let (seed, inputs) = (self.seed, self.shape.inputs);
        initialise(&mut self.rows.row_mut(slot)[..first], seed, id, inputs);
        self.ids.push(id);
        self.slots.insert(id, slot as u32);
        Ok(slot)
    }

    /// An expert as it began again: it adds nothing.
    pub fn reset(&mut self, id: u32) {
        if let Some(slot) = self.slot(id) {
            let first = self.shape.first_width();
            let (seed, inputs) = (self.seed, self.shape.inputs);
            let (u, v) = self.rows.row_mut(slot).split_at_mut(first);
            initialise(u, seed, id, inputs);
            v.fill(0.0);
        }
    }

    /// The factors of the row at `slot`: u `[ρ, in]` and v `[ρ, out]`.
    pub fn factors(&self, slot: usize) -> (&[f32], &[f32]) {
        self.rows.row(slot).split_at(self.shape.first_width())
    }

    /// The whole row at `slot`.
    pub fn row(&self, slot: usize) -> &[f32] {
        self.rows.row(slot)
    }

    /// The whole row at `slot`, to write.
    pub fn row_mut(&mut self, slot: usize) -> &mut [f32] {
        self.rows.row_mut(slot)
    }

    /// Writes the rows to a file.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.rows.save(path)
    }
}

/// U(±1/√in), a stream of its own for each expert, so that rows do not depend on the order in which they are touched.
fn initialise(u: &mut [f32], seed: u64, id: u32, inputs: usize) {
    let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(id) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let bound = 1.0 / (inputs.max(1) as f32).sqrt();
    u.fill_with(|| rng.random_range(-bound..bound));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let config = MemoryConfig {
            expert_rank: 2,
            ..MemoryConfig::default()
        };
        Table::new(ExpertShape::new(&config, 5, 3), 7)
    }

    #[test]
    fn a_row_begins_as_its_seed_says_whenever_it_is_touched() {
        let (mut one, mut other) = (table(), table());
        for id in [9, 3, 9] {
            one.touch(id).unwrap();
        }
        other.touch(3).unwrap();
        assert_eq!((one.ids(), one.slot(3), one.slot(4)), (&[9, 3][..], Some(1), None));
        assert_eq!(one.row(1), other.row(0));
        assert_ne!(one.row(0), one.row(1));
        let (u, v) = one.factors(1);
        assert_eq!((u.len(), v), (10, &[0.0; 6][..]));
        assert!(u.iter().all(|value| value.abs() <= 1.0 / 5f32.sqrt()));
        one.row_mut(1).fill(1.0);
        one.reset(3);
        assert_eq!(one.row(1), other.row(0));
    }

    #[test]
    fn a_table_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let mut table = table();
        for id in [4, 1] {
            let slot = table.touch(id).unwrap();
            table.row_mut(slot)[12] = id as f32;
        }
        table.save(&path).unwrap();
        let again = Table::open(table.shape(), 7, &path, table.ids().to_vec()).unwrap();
        assert_eq!((again.row(0), again.row(1)), (table.row(0), table.row(1)));
        let error = Table::open(table.shape(), 7, &path, vec![4, 4]).unwrap_err();
        assert!(error.to_string().contains("each expert once"), "{error}");
    }
}
