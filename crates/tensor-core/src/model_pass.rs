//! A model in use by an objective: forward passes are noted, and walked back once the loss is known.

use std::cell::RefCell;

use tch::Tensor;

use crate::pass::Tally;
use crate::tape::{self, Tape};
use crate::{CheckpointingPolicy, Documents, DropoutKey, LanguageModel, Linear, Pass, Result};

/// A row's loss, not yet divided: the step divides by the weight of all of its rows, so that accumulated rows equal
/// one large batch.
#[derive(Debug)]
pub struct Loss {
    /// Sum over the row's trained tokens (or pairs): a scalar with a graph to the hidden states.
    pub sum: Tensor,
    /// What the sum counts, under the names that the metrics shall have (`rewards/chosen`), as sums over the row.
    pub metrics: Vec<(&'static str, f64)>,
    /// Metrics of which the row's weight is not the count, such as rewards of good replies alone: name, sum, count.
    pub ratios: Vec<(&'static str, f64, f64)>,
}

impl Loss {
    /// A loss without metrics.
    pub fn of(sum: Tensor) -> Self {
        Self {
            sum,
            metrics: Vec::new(),
            ratios: Vec::new(),
        }
    }
}

/// What is minimised.
pub trait Objective {
    /// What one row of a step holds.
    type Batch;

    /// How much this row weighs in its step: its trained tokens, or its pairs.
    fn weight(&self, batch: &Self::Batch) -> f64;

    /// Whether layers drop out while it trains; not where its rows were written by the model without dropout, and a step
    /// compares with what it said then.
    fn drops_out(&self) -> bool {
        true
    }

    /// The row's loss. `policy` notes every hidden state asked of it for the way back.
    fn loss(&self, policy: &ModelPass, batch: &Self::Batch) -> Result<Loss>;
}

/// The model during one row of a step.
pub struct ModelPass<'a> {
    model: &'a dyn LanguageModel,
    plan: &'a CheckpointingPolicy,
    mode: Mode,
    rows: RefCell<Vec<(Tape, Documents)>>,
}

#[derive(Clone, Copy)]
enum Mode {
    /// With the row's dropout, or without any.
    Train(Option<DropoutKey>),
    Evaluate,
}

impl Mode {
    fn pass(self, documents: &Documents) -> Pass<'_> {
        match self {
            Self::Train(Some(key)) => Pass::train(documents, key),
            Self::Train(None) => Pass::train(documents, DropoutKey(0)).without_dropout(),
            Self::Evaluate => Pass::evaluate(documents),
        }
    }
}

impl<'a> ModelPass<'a> {
    /// A model that trains; `key` seeds this row's dropout.
    pub fn train(model: &'a dyn LanguageModel, plan: &'a CheckpointingPolicy, key: DropoutKey) -> Self {
        Self {
            model,
            plan,
            mode: Mode::Train(Some(key)),
            rows: RefCell::default(),
        }
    }

    /// A model that trains without dropout.
    pub fn train_without_dropout(model: &'a dyn LanguageModel, plan: &'a CheckpointingPolicy) -> Self {
        Self {
            model,
            plan,
            mode: Mode::Train(None),
            rows: RefCell::default(),
        }
    }

    /// A model that is measured.
    pub fn evaluate(model: &'a dyn LanguageModel, plan: &'a CheckpointingPolicy) -> Self {
        Self {
            model,
            plan,
            mode: Mode::Evaluate,
            rows: RefCell::default(),
        }
    }

    /// The normed hidden states `[t, d]` of a row of tokens (`[t]` i64). When training, a leaf whose gradient is
    /// walked back by [`Self::backward`].
    pub fn hidden(&self, tokens: &Tensor, documents: &Documents) -> Tensor {
        match self.mode {
            Mode::Evaluate => evaluate(self.model, tokens, &Pass::evaluate(documents)),
            Mode::Train(_) => {
                let tape = Tape::forward(self.model, tokens, &self.mode.pass(documents), self.plan);
                let hidden = tape.hidden().shallow_clone();
                self.rows.borrow_mut().push((tape, documents.clone()));
                hidden
            }
        }
    }

    /// The hidden states as they are measured, whatever the mode: no graph, no dropout.
    pub fn measured_hidden(&self, tokens: &Tensor, documents: &Documents) -> Tensor {
        evaluate(self.model, tokens, &Pass::evaluate(documents))
    }

    /// The hidden states of the base alone: adapters off, no graph.
    pub fn reference_hidden(&self, tokens: &Tensor, documents: &Documents) -> Tensor {
        evaluate(self.model, tokens, &Pass::evaluate(documents).without_adapters())
    }

    /// What reads the hidden states.
    pub fn head(&self) -> &'a Linear {
        self.model.head()
    }

    /// A pass over `documents` in this policy's mode, for what reads the hidden states.
    pub fn pass<'d>(&self, documents: &'d Documents) -> Pass<'d> {
        self.mode.pass(documents)
    }

    /// Side losses (a router's balance) of the rows so far, as a plain number.
    pub fn side_total(&self) -> f64 {
        self.rows.borrow().iter().map(|(tape, _)| tape.side_total()).sum()
    }

    /// What layers counted in the rows so far, in order.
    pub fn tallies(&self) -> Vec<Tally> {
        let rows = self.rows.borrow();
        rows.iter()
            .flat_map(|(tape, _)| tape.tallies().iter().cloned())
            .collect()
    }

    /// Adds the gradients of `loss.sum * scale` to the leaves; side losses weigh `side_weight`.
    pub fn backward(self, loss: &Loss, scale: f64, side_weight: f64) -> Result<()> {
        if loss.sum.requires_grad() {
            crate::autograd::backward(&[&loss.sum], &[&loss.sum.full_like(scale)])?;
        }
        for (tape, documents) in self.rows.into_inner().into_iter().rev() {
            tape.backward(self.model, &self.mode.pass(&documents), side_weight)?;
        }
        Ok(())
    }

    /// The first block whose output is not finite for this row (the number of blocks stands for the last norm).
    pub fn first_non_finite(&self, tokens: &Tensor, documents: &Documents) -> Option<usize> {
        tape::first_non_finite(self.model, tokens, &Pass::evaluate(documents))
    }
}

fn evaluate(model: &dyn LanguageModel, tokens: &Tensor, pass: &Pass) -> Tensor {
    tch::no_grad(|| {
        let stream =
            (0..model.num_blocks()).fold(model.embed(tokens, pass), |stream, idx| model.block(idx, &stream, pass));
        model.norm(&stream, pass)
    })
}
