//! The data side's packed rows as tensors, step by step.
//!
//! Shapes: t tokens of a row, n documents.

use std::rc::Rc;

use anyhow::Result;
use data::{Arrange, BatchConfig, Mixture, Part, TokenSet};
use events::Events;
use methods::recipe::Recipe;
use tch::{Device, Tensor};
use tensor_core::Documents;
use train::{BoxError, Row};

use super::rows::{RowContext, ToRow};
use super::sets::Sets;

/// Steps over some sets.
pub struct Steps<'d> {
    batches: data::Batches<'d>,
    context: RowContext,
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
            context: RowContext {
                margins: Rc::new(sets.margins.clone()),
                ..row_context(recipe, device)
            },
        })
    }

    /// One set, once, in its own order.
    pub fn once(set: &'d TokenSet, recipe: &Recipe, device: Device) -> Result<Self> {
        let config = recipe.data.batching(&recipe.train);
        Ok(Self {
            longest_row: longest_row(&[set], &config),
            batches: data::Batches::sequential(set, config)?,
            context: row_context(recipe, device),
        })
    }

    /// The same steps, where the log-probabilities of each set's replies under the reference are known.
    #[must_use]
    pub fn with_known(mut self, known: Vec<Vec<f32>>) -> Self {
        self.context.known = Rc::new(known);
        self
    }

    /// The same steps, which tell what is odd in their rows.
    #[must_use]
    pub fn with_events(mut self, events: &Events) -> Self {
        self.context.events = events.clone();
        self
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

    /// What rows are made with.
    pub fn row_context(&self) -> &RowContext {
        &self.context
    }

    /// Tokens of the longest row there can be.
    pub fn longest(&self) -> usize {
        self.longest_row
    }

    /// A step's rows as tensors.
    pub fn tensors<B: ToRow>(&self, step: usize) -> Result<Vec<Row<B>>, data::Error> {
        let packed = self.batches.step(step)?.rows;
        let rows = B::of_step(&packed, &self.context).into_iter().zip(&packed);
        Ok(rows
            .map(|(batch, packed)| Row {
                batch,
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

fn row_context(recipe: &Recipe, device: Device) -> RowContext {
    RowContext {
        device,
        max_length: recipe.data.max_length,
        max_tokens: recipe.data.max_tokens,
        known: Rc::default(),
        margins: Rc::default(),
        told: Rc::default(),
        events: Events::none(),
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
