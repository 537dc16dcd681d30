//! The data side's packed rows as tensors, step by step.
//!
//! Shapes: t tokens of a row, n documents.

use anyhow::Result;
use data::{Arrange, BatchConfig, Mixture, Packed, Part, TokenSet};
use decoder::loss::{LabelledRow, TokenRow};
use tch::{Device, Tensor};
use tensor_core::Documents;
use train::{BoxError, Row};

use super::sets::Sets;
use crate::recipe::Recipe;

/// What an objective reads of a packed row.
pub trait ToRow: Sized + 'static {
    /// As tensors on `device`.
    fn of(packed: &Packed, device: Device) -> Self;

    /// Its tokens and documents.
    fn input(&self) -> (&Tensor, &Documents);
}

impl ToRow for TokenRow {
    fn of(packed: &Packed, device: Device) -> Self {
        Self {
            tokens: Tensor::from_slice(&packed.tokens).to_device(device),
            targets: Tensor::from_slice(&packed.targets).to_device(device),
            documents: Documents::new(&packed.lengths),
        }
    }

    fn input(&self) -> (&Tensor, &Documents) {
        (&self.tokens, &self.documents)
    }
}

impl ToRow for LabelledRow {
    fn of(packed: &Packed, device: Device) -> Self {
        // Sets without labels are refused when they are read.
        let labels: Vec<i64> = packed
            .documents
            .iter()
            .map(|document| document.label.unwrap_or_default())
            .collect();
        Self {
            tokens: Tensor::from_slice(&packed.tokens).to_device(device),
            labels: Tensor::from_slice(&labels).to_device(device),
            documents: Documents::new(&packed.lengths),
        }
    }

    fn input(&self) -> (&Tensor, &Documents) {
        (&self.tokens, &self.documents)
    }
}

/// Steps over some sets.
pub struct Steps<'d> {
    batches: data::Batches<'d>,
    device: Device,
    longest_row: usize,
}

impl<'d> Steps<'d> {
    /// The training sets, mixed as the recipe says.
    pub fn training(sets: &'d Sets, recipe: &Recipe, device: Device) -> Result<Self> {
        let parts: Vec<Part> = sets
            .train
            .iter()
            .zip(&recipe.data.train)
            .map(|(set, source)| Part {
                len: set.len(),
                weight: source.weight,
                max_samples: source.max_samples,
            })
            .collect();
        let seed = recipe.train.seed;
        let mixture = Mixture::new(&parts, recipe.data.mix_strategy, Arrange::Shuffled, seed)?;
        let config = recipe.data.batching(&recipe.train);
        let refs: Vec<&TokenSet> = sets.train.iter().collect();
        Ok(Self {
            longest_row: longest_row(&refs, &config),
            batches: data::Batches::new(refs, mixture, config)?,
            device,
        })
    }

    /// One set, once, in its own order.
    pub fn once(set: &'d TokenSet, recipe: &Recipe, device: Device) -> Result<Self> {
        let config = recipe.data.batching(&recipe.train);
        Ok(Self {
            longest_row: longest_row(&[set], &config),
            batches: data::Batches::sequential(set, config)?,
            device,
        })
    }

    /// Optimiser steps in an epoch.
    pub fn len(&self) -> usize {
        self.batches.steps_per_epoch()
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data side's own view.
    pub fn batches(&self) -> &data::Batches<'d> {
        &self.batches
    }

    /// Tokens of the longest row there can be.
    pub fn longest(&self) -> usize {
        self.longest_row
    }

    /// A step's rows as tensors.
    pub fn tensors<B: ToRow>(&self, step: usize) -> Result<Vec<Row<B>>, data::Error> {
        let rows = self.batches.step(step)?.rows;
        Ok(rows
            .iter()
            .map(|packed| Row {
                batch: B::of(packed, self.device),
                num_tokens: packed.tokens.len(),
            })
            .collect())
    }
}

impl<B: ToRow> train::Batches<B> for Steps<'_> {
    fn num_steps_per_epoch(&self) -> usize {
        self.len()
    }

    fn rows(&self, step: usize) -> Result<Vec<Row<B>>, BoxError> {
        Ok(self.tensors(step)?)
    }

    fn longest_row(&self) -> usize {
        self.longest_row
    }

    fn input<'b>(&self, batch: &'b B) -> Option<(&'b Tensor, &'b Documents)> {
        Some(batch.input())
    }
}

/// A row is filled up to `max_tokens` if a step has enough for it; a longer sample has a row of its own.
fn longest_row(sets: &[&TokenSet], config: &BatchConfig) -> usize {
    let lengths = sets
        .iter()
        .flat_map(|set| (0..set.len()).map(|sample| set.sample_len(sample)));
    let longest = lengths.max().unwrap_or(0);
    let whole = longest * config.per_device_train_batch_size * config.gradient_accumulation_steps;
    longest.max(whole.min(config.max_tokens))
}
