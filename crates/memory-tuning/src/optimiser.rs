//! Gradients and optimiser states of rows: both exist for the rows that a step touched, and for no other.
//!
//! AdamW counts a row's own updates, so that a row which is touched for the first time at step 1000 moves as a new
//! parameter would. A row without a gradient does not move, not by its running means nor by decay.

use schemars::JsonSchema;
use std::collections::HashMap;

use crate::map::MappedRows;
use crate::{Error, Result, Table};

/// The gradients of one step's rows.
#[derive(Debug, Default)]
pub struct Gradients {
    width: usize,
    slots: Vec<usize>,
    places: HashMap<usize, usize>,
    values: Vec<f32>,
}

impl Gradients {
    /// Of rows of this width; none yet.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            ..Self::default()
        }
    }

    /// The gradient of the row at `slot`, zeros if it is new.
    pub fn row(&mut self, slot: usize) -> &mut [f32] {
        let next = self.slots.len();
        let place = *self.places.entry(slot).or_insert(next);
        if place == next {
            self.slots.push(slot);
            self.values.resize(self.values.len() + self.width, 0.0);
        }
        &mut self.values[place * self.width..(place + 1) * self.width]
    }

    /// Each row with its gradient, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.slots
            .iter()
            .copied()
            .zip(self.values.chunks_exact(self.width.max(1)))
    }

    /// The sum of all squares.
    pub fn square_sum(&self) -> f64 {
        self.values.iter().map(|&value| f64::from(value).powi(2)).sum()
    }

    /// Forgets them, keeping the memory.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.places.clear();
        self.values.clear();
    }
}

/// How rows move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowOptimizer {
    /// Loshchilov and Hutter 2019, arXiv:1711.05101.
    #[default]
    Adamw,
    /// The gradient alone, without a state.
    Sgd,
}

/// One update's numbers.
#[derive(Clone, Copy, Debug)]
pub struct RowUpdate {
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the gradient's running mean.
    pub beta1: f64,
    /// Decay of the squared gradient's running mean.
    pub beta2: f64,
    /// What is added to the root.
    pub epsilon: f64,
    /// Decoupled decay.
    pub weight_decay: f64,
    /// What every gradient is multiplied by first: the clipping.
    pub gradient_scale: f64,
}

/// What is remembered of the rows that were moved: both running means of `AdamW`, and each row's updates.
#[derive(Debug)]
pub struct RowStates {
    optimizer: RowOptimizer,
    means: MappedRows,
    ids: Vec<u32>,
    updates: Vec<u32>,
    places: HashMap<u32, usize>,
}

impl RowStates {
    /// None yet, for rows of this width.
    pub fn new(optimizer: RowOptimizer, width: usize) -> Self {
        Self {
            optimizer,
            means: MappedRows::new(2 * width),
            ids: Vec::new(),
            updates: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// The experts that have a state, and how often each was moved.
    pub fn counts(&self) -> (&[u32], &[u32]) {
        (&self.ids, &self.updates)
    }

    /// Moves each row that has a gradient.
    pub fn update(&mut self, table: &mut Table, gradients: &Gradients, update: &RowUpdate) -> Result<()> {
        for (slot, gradient) in gradients.iter() {
            match self.optimizer {
                RowOptimizer::Sgd => {
                    let (rate, scale) = (update.learning_rate as f32, update.gradient_scale as f32);
                    let decay = 1.0 - (update.learning_rate * update.weight_decay) as f32;
                    for (value, gradient) in table.row_mut(slot).iter_mut().zip(gradient) {
                        *value = *value * decay - rate * scale * gradient;
                    }
                }
                RowOptimizer::Adamw => {
                    let place = self.place(table.ids()[slot])?;
                    self.updates[place] = self.updates[place].saturating_add(1);
                    let number = self.updates[place];
                    adamw(table.row_mut(slot), gradient, self.means.row_mut(place), number, update);
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, id: u32) -> Result<usize> {
        if let Some(&place) = self.places.get(&id) {
            return Ok(place);
        }
        let place = self.means.push()?;
        self.ids.push(id);
        self.updates.push(0);
        self.places.insert(id, place);
        Ok(place)
    }

    /// Writes the running means, a row of both for each of [`Self::counts`].
    pub(crate) fn save(&self, path: &std::path::Path) -> Result<()> {
        self.means.save(path)
    }

    /// As they were saved: for experts of `table`, each once, with its number of updates.
    pub(crate) fn open(
        optimizer: RowOptimizer,
        width: usize,
        path: &std::path::Path,
        (ids, updates): (Vec<u32>, Vec<u32>),
        table: &Table,
    ) -> Result<Self> {
        let wrong = |wanted: &str, found: String| {
            Err(Error::Format {
                path: path.to_owned(),
                wanted: wanted.to_owned(),
                found,
                hint: "the states' index is damaged or of another memory; copy the checkpoint again",
            })
        };
        if ids.len() != updates.len() {
            let found = format!("{} experts and {} numbers", ids.len(), updates.len());
            return wrong("a number of updates for each expert", found);
        }
        if let Some(id) = ids.iter().find(|&&id| table.slot(id).is_none()) {
            return wrong(
                "states of experts that have a row",
                format!("expert {id}, which has none"),
            );
        }
        let places: HashMap<u32, usize> = ids.iter().zip(0..).map(|(&id, place)| (id, place)).collect();
        if places.len() != ids.len() {
            let found = format!("{} states of {} experts", ids.len(), places.len());
            return wrong("each expert once", found);
        }
        Ok(Self {
            optimizer,
            means: MappedRows::open(path, 2 * width, ids.len())?,
            places,
            ids,
            updates,
        })
    }

    /// Forgets an expert's running means: it moves as a new one would.
    pub fn reset(&mut self, id: u32) {
        if let Some(&place) = self.places.get(&id) {
            self.updates[place] = 0;
            self.means.row_mut(place).fill(0.0);
        }
    }

    /// Rows that have a state.
    pub fn len(&self) -> usize {
        self.means.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One row's update number `number`; `means` holds the running mean, then that of the squares.
fn adamw(row: &mut [f32], gradient: &[f32], means: &mut [f32], number: u32, update: &RowUpdate) {
    let (first, second) = means.split_at_mut(row.len());
    let (beta1, beta2) = (update.beta1 as f32, update.beta2 as f32);
    let decay = 1.0 - (update.learning_rate * update.weight_decay) as f32;
    let correction = |beta: f64| 1.0 - beta.powi(i32::try_from(number).unwrap_or(i32::MAX));
    let rate = (update.learning_rate / correction(update.beta1)) as f32;
    let root = 1.0 / correction(update.beta2).sqrt() as f32;
    let (scale, epsilon) = (update.gradient_scale as f32, update.epsilon as f32);
    let moments = first.iter_mut().zip(second);
    for ((value, gradient), (first, second)) in row.iter_mut().zip(gradient).zip(moments) {
        let gradient = gradient * scale;
        *first += (1.0 - beta1) * (gradient - *first);
        *second += (1.0 - beta2) * (gradient * gradient - *second);
        *value = *value * decay - rate * *first / (second.sqrt() * root + epsilon);
    }
}
