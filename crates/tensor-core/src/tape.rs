//! The engine: a row's way through the blocks, and back with a given gradient.
//!
//! The block is the unit of memory. A kept block holds its graph; a recomputed block holds its input and builds the
//! graph again on the way back, by the same operations in the same order, so the gradients are the same bit for bit.
//! Shapes: t tokens, d model width.

use tch::Tensor;

use crate::pass::{SideLosses, Tally};
use crate::{LanguageModel, Pass, Result, autograd};

/// What a block leaves behind on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checkpointing {
    /// Its graph.
    Keep,
    /// Its input only.
    Recompute,
}

/// How each block is treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointingPolicy {
    treatments: Vec<Checkpointing>,
}

impl CheckpointingPolicy {
    /// Every block alike.
    pub fn uniform(treatment: Checkpointing, num_blocks: usize) -> Self {
        Self {
            treatments: vec![treatment; num_blocks],
        }
    }

    /// The first `recomputed` blocks are recomputed, the others kept.
    pub fn recompute_first(recomputed: usize, num_blocks: usize) -> Self {
        Self {
            treatments: (0..num_blocks)
                .map(|i| {
                    if i < recomputed {
                        Checkpointing::Recompute
                    } else {
                        Checkpointing::Keep
                    }
                })
                .collect(),
        }
    }

    /// What becomes of block `idx`; blocks beyond the policy are kept.
    pub fn of_block(&self, idx: usize) -> Checkpointing {
        self.treatments.get(idx).copied().unwrap_or(Checkpointing::Keep)
    }
}

/// One segment's leaf input and what is left of its forward pass.
struct Segment {
    idx: usize,
    input: Tensor,
    output: Option<Tensor>,
    side_losses: Vec<Tensor>,
}

/// One row's forward pass, ready to go back.
pub(crate) struct Tape {
    embedded: Tensor,
    segments: Vec<Segment>,
    normed: Tensor,
    hidden: Tensor,
    side_total: f64,
    tallies: Vec<Tally>,
}

impl Tape {
    /// Runs `tokens` (`[t]` i64) through `model` under `plan`.
    pub(crate) fn forward(model: &dyn LanguageModel, tokens: &Tensor, pass: &Pass, plan: &CheckpointingPolicy) -> Self {
        let side = SideLosses::default();
        let pass = &pass.with_side_losses(&side);
        let mut side_total = 0.0;
        let embedded = model.embed(tokens, pass);
        let mut stream = leaf_of(&embedded);
        let mut segments = Vec::with_capacity(model.num_blocks());
        for idx in 0..model.num_blocks() {
            let kept = plan.of_block(idx) == Checkpointing::Keep;
            let output = if kept {
                model.block(idx, &stream, pass)
            } else {
                tch::no_grad(|| model.block(idx, &stream, pass))
            };
            let side_losses = side.drain();
            side_total += side_losses.iter().map(|loss| loss.double_value(&[])).sum::<f64>();
            // Whether a recomputed block's output needs a gradient is only known when its graph is built, so it is assumed.
            let next = if kept {
                leaf_of(&output)
            } else {
                output.detach().set_requires_grad(true)
            };
            segments.push(Segment {
                idx,
                input: stream,
                output: kept.then_some(output),
                side_losses,
            });
            stream = next;
        }
        let normed = model.norm(&stream, pass);
        segments.push(Segment {
            idx: usize::MAX,
            input: stream,
            output: None,
            side_losses: Vec::new(),
        });
        let hidden = normed.detach().set_requires_grad(true);
        Self {
            embedded,
            segments,
            normed,
            hidden,
            side_total,
            tallies: side.drain_tallies(),
        }
    }

    /// The normed stream `[t, d]`: a leaf that the loss is computed from.
    pub(crate) fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Sum of the side losses of this row.
    pub(crate) fn side_total(&self) -> f64 {
        self.side_total
    }

    /// What layers counted on the way up.
    pub(crate) fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// Walks back from the gradient that the loss left on [`Self::hidden`]; side losses weigh `side_weight`.
    pub(crate) fn backward(self, model: &dyn LanguageModel, pass: &Pass, side_weight: f64) -> Result<()> {
        let Self {
            embedded,
            mut segments,
            normed,
            hidden,
            ..
        } = self;
        let side = SideLosses::default();
        let pass = &pass.with_side_losses(&side);
        let mut gradient = hidden.grad();
        drop(hidden);
        let Some(last) = segments.pop() else { return Ok(()) };
        if !gradient.defined() || !normed.requires_grad() {
            gradient = Tensor::new();
        } else {
            autograd::backward(&[&normed], &[&gradient])?;
            gradient = last.input.grad();
        }
        drop((normed, last));
        while let Some(Segment {
            idx,
            input,
            output,
            mut side_losses,
        }) = segments.pop()
        {
            let output = output.unwrap_or_else(|| {
                let again = model.block(idx, &input, pass);
                side_losses = side.drain();
                again
            });
            let (mut roots, mut gradients) = (Vec::new(), Vec::new());
            if gradient.defined() && output.requires_grad() {
                roots.push(&output);
                gradients.push(gradient.shallow_clone());
            }
            for loss in side_losses.iter().filter(|loss| loss.requires_grad()) {
                roots.push(loss);
                gradients.push(loss.ones_like() * side_weight);
            }
            gradient = Tensor::new();
            if !roots.is_empty() {
                autograd::backward(&roots, &gradients.iter().collect::<Vec<_>>())?;
                gradient = input.grad();
            }
        }
        if gradient.defined() && embedded.requires_grad() {
            autograd::backward(&[&embedded], &[&gradient])?;
        }
        Ok(())
    }
}

/// The first block whose output is not finite for this row; `num_blocks` means the last norm, none that all are.
pub(crate) fn first_non_finite(model: &dyn LanguageModel, tokens: &Tensor, pass: &Pass) -> Option<usize> {
    tch::no_grad(|| {
        let mut stream = model.embed(tokens, pass);
        for idx in 0..model.num_blocks() {
            stream = model.block(idx, &stream, pass);
            if !all_finite(&stream) {
                return Some(idx);
            }
        }
        (!all_finite(&model.norm(&stream, pass))).then(|| model.num_blocks())
    })
}

fn all_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
}

fn leaf_of(output: &Tensor) -> Tensor {
    output.detach().set_requires_grad(output.requires_grad())
}
