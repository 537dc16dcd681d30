//! The seam for data: the rows of a step, by its number.
//!
//! Why this form: a step is asked for by number, so that a resumed run reads its next rows at once; it comes whole (all
//! micro-batches), so that what each row weighs is known before the first backward pass and accumulation equals one
//! large batch exactly. What a row holds is the objective's affair.

use tch::Tensor;
use tensor_core::Documents;

use crate::BoxError;

/// One forward and backward pass of a step.
#[derive(Debug)]
pub struct Row<B> {
    /// What the objective reads.
    pub batch: B,
    /// Tokens that go through the model.
    pub num_tokens: usize,
}

/// The training data as steps. Asking twice for a step gives the same rows.
pub trait Batches<B> {
    /// Optimiser steps in one pass over the data.
    fn num_steps_per_epoch(&self) -> usize;

    /// All rows of optimiser step `step`, counted from 0 over the whole run: step `s` lies in epoch
    /// `s / num_steps_per_epoch`.
    fn rows(&self, step: usize) -> Result<Vec<Row<B>>, BoxError>;

    /// Tokens of the longest row there can be: what activation memory is planned for.
    fn longest_row(&self) -> usize;

    /// A row's tokens (`[t]` i64) and documents, for finding the block that made a NaN; none if a row has no such form.
    fn input<'b>(&self, batch: &'b B) -> Option<(&'b Tensor, &'b Documents)>;
}
