//! Time of a run: what its steps cost on this machine, measured on the model's first blocks; where that is not possible,
//! its multiplications over the machine's matrix rate.

use std::time::Instant;

use events::figures;
use methods::recipe::{ObjectiveConfig, Recipe};
use models::machine::Machine;
use serde_json::Value;
use session::training::rollouts::Extent;
use session::training::sets::Sets;
use session::training::steps::Steps;
use tch::{Kind, Tensor};

use crate::memory::Model;
use crate::object;
use crate::rates::{Rates, Replies};

/// What the run is and how long it takes.
#[derive(Debug)]
pub struct Time {
    steps: usize,
    tokens: f64,
    rate: f64,
    operations: f64,
    is_measured: bool,
    /// Tokens through the model in a second.
    pub tokens_per_second: f64,
}

/// Without a measurement: the share of the matrix rate that a whole step reaches; the rest goes to norms, attention and
/// the optimiser.
const SHARE: f64 = 0.33;

/// What one epoch computes.
pub(crate) struct Work {
    steps: usize,
    /// Tokens that are learnt from or read before them.
    tokens: f64,
    /// Of them, those that are learnt.
    learnt: f64,
    /// Tokens that go forward only.
    forward_only: f64,
    /// Tokens of replies that are written one after another.
    written: f64,
    /// How these are written.
    pub(crate) replies: Option<Replies>,
    /// Tokens of the longest row.
    pub(crate) longest: usize,
}

impl Work {
    /// Of rows that are there.
    pub(crate) fn of(sets: &Sets, steps: &Steps, recipe: &Recipe) -> Self {
        let order = steps.batches().mixture().order(0);
        let in_epoch: f64 = order
            .iter()
            .map(|pick| sets.train[pick.set as usize].sample_len(pick.sample as usize) as f64)
            .sum();
        let (trained, all) = sets.train.iter().fold((0.0, 0.0), |(trained, all), set| {
            (
                trained + set.report().trained_tokens as f64,
                all + set.report().tokens as f64,
            )
        });
        let has_reference = match &recipe.objective {
            ObjectiveConfig::Dpo(config) => config.needs_reference() && !config.precompute_ref_log_probs,
            ObjectiveConfig::Kto(_) => true,
            _ => false,
        };
        Self {
            steps: steps.len(),
            tokens: in_epoch,
            learnt: in_epoch * trained / f64::max(all, 1.0),
            forward_only: if has_reference { in_epoch } else { 0.0 },
            written: 0.0,
            replies: None,
            longest: steps.longest(),
        }
    }

    /// Of replies that are yet to be written.
    pub(crate) fn of_rollouts(extent: &Extent) -> Self {
        Self {
            steps: extent.steps,
            tokens: extent.tokens,
            learnt: extent.learnt,
            forward_only: extent.forward_only,
            written: extent.written,
            replies: Some(Replies {
                at_once: extent.at_once,
                prompt: extent.prompt,
                reply: extent.reply,
            }),
            longest: extent.longest,
        }
    }
}

pub(crate) fn estimate(
    model: &Model,
    recipe: &Recipe,
    machine: Machine,
    work: &Work,
    recomputed: f64,
    rates: Option<Rates>,
) -> Time {
    let total = recipe.train.total_steps(work.steps);
    let epochs = total as f64 / work.steps as f64;
    let tokens = work.tokens * epochs;
    // Forward and the gradient of the inputs; that of the weights where they train; recomputed blocks forward again.
    let trains = (model.unfrozen / model.base).min(1.0);
    let block = 2.0 * model.matrices * (2.0 + trains + recomputed) + 6.0 * model.added;
    let head = 2.0 * model.head * (2.0 + trains);
    let forward = 2.0 * (model.matrices + model.head);
    let learning = tokens * block + epochs * work.learnt * head;
    let passing = epochs * (work.forward_only + work.written) * forward;
    let rate = rate(model, machine, work.longest);
    let seconds = match rates {
        Some(rates) => {
            let learn = tokens * rates.learn.at(model.layers);
            // A pass without gradients costs its share of the multiplications.
            let pass = learn * epochs * work.forward_only * forward / learning.max(1.0);
            let write = epochs * work.written * rates.write.at(model.layers);
            learn + pass + write + total as f64 * rates.update.at(model.layers)
        }
        None => (learning + passing) / (rate * SHARE),
    };
    Time {
        steps: total,
        tokens,
        rate,
        operations: learning + passing,
        is_measured: rates.is_some(),
        tokens_per_second: tokens / seconds.max(1e-9),
    }
}

/// Operations a second of the model's own largest product, the best of a few.
fn rate(model: &Model, machine: Machine, tokens: usize) -> f64 {
    let (t, d, f) = (
        tokens.clamp(64, 2048) as i64,
        model.hidden as i64,
        model.intermediate as i64,
    );
    let zeros = |shape: [i64; 2]| Tensor::ones(shape, (Kind::Float, machine.device)).to_kind(machine.kind);
    let (x, w) = (zeros([t, d]), zeros([d, f]));
    let once = || {
        let begun = Instant::now();
        // Reading a number waits for the device.
        let _ = tch::no_grad(|| x.matmul(&w))
            .get(0)
            .get(0)
            .to_kind(Kind::Float)
            .double_value(&[]);
        begun.elapsed().as_secs_f64()
    };
    once();
    let best = (0..5).map(|_| once()).fold(f64::INFINITY, f64::min);
    2.0 * (t * d * f) as f64 / best
}

impl Time {
    fn seconds(&self) -> f64 {
        self.tokens / self.tokens_per_second
    }

    /// The numbers for people: name and value.
    pub fn lines(&self) -> [(&'static str, String); 5] {
        [
            ("optimiser steps", self.steps.to_string()),
            ("tokens", figures::count(self.tokens)),
            ("this machine's matrix rate", format!("{:.0} GFLOP/s", self.rate / 1e9)),
            ("tokens a second", format!("{:.0}", self.tokens_per_second)),
            ("all steps, without evaluations", figures::seconds(self.seconds())),
        ]
    }

    pub(crate) fn as_json(&self) -> Value {
        let mut found = object(
            [
                ("steps", self.steps as f64),
                ("tokens", self.tokens),
                ("operations", self.operations),
                ("matrix rate", self.rate),
                ("tokens per second", self.tokens_per_second),
                ("seconds", self.seconds()),
            ]
            .into_iter(),
        );
        found["measured"] = self.is_measured.into();
        found
    }
}
