//! The memories of a model, as whoever trains or saves them holds them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tch::Tensor;
use tensor_core::ModulePath;

use crate::memory::locked;
use crate::{ExpertShape, Gradients, MemoryConfig, Result, RowOptimizer, RowStates, RowUpdate, Selection, Table};

/// The experts beside one projection: what chooses them, their rows, and what a step knows of them.
#[derive(Debug)]
pub struct Experts {
    /// What chooses.
    pub selection: Selection,
    /// The rows.
    pub table: Table,
    /// c.
    pub scale: f32,
    /// Gradients of the step under way.
    pub gradients: Gradients,
    /// States of the rows that were moved.
    pub states: RowStates,
    movable: HashSet<u32>,
    noted: Option<Vec<Tensor>>,
}

impl Experts {
    /// Experts of which none was touched.
    pub fn new(config: &MemoryConfig, selection: Selection, table: Table) -> Self {
        let width = table.shape().width();
        Self {
            selection,
            table,
            scale: config.scale as f32,
            gradients: Gradients::new(width),
            states: RowStates::new(RowOptimizer::default(), width),
            movable: HashSet::new(),
            noted: None,
        }
    }

    /// Experts beside a projection `[outputs, inputs]` at `at`, random as the configuration's seed says.
    pub fn random(config: &MemoryConfig, at: &ModulePath, inputs: usize, outputs: usize) -> Self {
        let shape = ExpertShape::new(config, inputs, outputs);
        let seed = config.seed ^ at.site();
        Self::new(
            config,
            Selection::random(config, inputs, at.site()),
            Table::new(shape, seed),
        )
    }

    /// Whether an expert's row collects a gradient.
    pub fn may_move(&self, id: u32) -> bool {
        self.movable.contains(&id)
    }

    /// From now on these experts move, and no others; those without a row get one.
    pub fn let_move(&mut self, ids: impl IntoIterator<Item = u32>) -> Result<()> {
        self.movable.clear();
        for id in ids {
            self.table.touch(id)?;
            self.movable.insert(id);
        }
        Ok(())
    }

    /// Moves the rows by their gradients, which end with that.
    pub fn update(&mut self, update: &RowUpdate) -> Result<()> {
        let moved = self.states.update(&mut self.table, &self.gradients, update);
        self.gradients.clear();
        moved
    }

    /// Keeps an input for whoever asked for it.
    pub(crate) fn note(&mut self, x: &Tensor) {
        if let Some(noted) = &mut self.noted {
            noted.push(x.detach());
        }
    }
}

/// Projections with their experts.
pub(crate) type Sites = Vec<(ModulePath, Arc<Mutex<Experts>>)>;

/// The experts of every projection that has a memory, in the model's order.
#[derive(Clone, Debug)]
pub struct MemoryBank {
    config: MemoryConfig,
    sites: Sites,
}

impl MemoryBank {
    /// Of these projections.
    pub fn new(config: MemoryConfig, sites: Vec<(ModulePath, Arc<Mutex<Experts>>)>) -> Self {
        Self { config, sites }
    }

    /// The options.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// The projections that have a memory.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &ModulePath> {
        self.sites.iter().map(|(at, _)| at)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sites.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// What `body` says of each projection's experts, in order.
    pub fn each<T>(&self, mut body: impl FnMut(usize, &ModulePath, &mut Experts) -> T) -> Vec<T> {
        let sites = self.sites.iter().enumerate();
        sites
            .map(|(idx, (at, experts))| body(idx, at, &mut locked(experts)))
            .collect()
    }

    /// Begins anew to train rows with `optimizer`.
    pub fn train_with(&self, optimizer: RowOptimizer) {
        self.each(|_, _, experts| experts.states = RowStates::new(optimizer, experts.table.shape().width()));
    }

    /// The inputs `[t, in]` f32 that each projection with a memory meets while `body` runs, one tensor a call.
    pub fn inputs_during<E>(&self, body: impl FnOnce() -> Result<(), E>) -> Result<Vec<Vec<Tensor>>, E> {
        self.each(|_, _, experts| experts.noted = Some(Vec::new()));
        let done = body();
        let noted = self.each(|_, _, experts| experts.noted.take().unwrap_or_default());
        done.map(|()| noted)
    }

    /// The Euclidean norm of all rows' gradients.
    pub fn gradient_norm(&self) -> f64 {
        let squares = self.each(|_, _, experts| experts.gradients.square_sum());
        squares.iter().sum::<f64>().sqrt()
    }

    /// Moves every row that has a gradient.
    pub fn update(&self, update: &RowUpdate) -> Result<()> {
        self.each(|_, _, experts| experts.update(update)).into_iter().collect()
    }

    /// Rows that exist, over all tables.
    pub fn num_touched(&self) -> usize {
        self.each(|_, _, experts| experts.table.ids().len()).iter().sum()
    }
}
