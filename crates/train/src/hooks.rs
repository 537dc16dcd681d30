//! What the loop asks of its caller: where to write, how to save, how to evaluate, when to stop.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use events::Events;

use crate::{AfterStep, BoxError, Entry, Rounds, RunDir, Sparse, States};

/// Writes the adapter or the model, as others read it, into a folder that exists.
pub type SaveModel<'a> = dyn Fn(&Path) -> Result<(), BoxError> + 'a;

/// Measures the model after a step (0 for before the first): names, logged as `eval/NAME`, and values.
pub type Evaluate<'a> = dyn FnMut(usize) -> Result<Vec<(String, f64)>, BoxError> + 'a;

/// Hears each entry of `metrics.jsonl`.
pub type OnEntry<'a> = dyn FnMut(&Entry) + 'a;

/// The caller's side of a run.
pub struct Hooks<'a> {
    pub(crate) dir: &'a RunDir,
    pub(crate) save_model: &'a SaveModel<'a>,
    pub(crate) evaluate: Option<&'a mut Evaluate<'a>>,
    pub(crate) on_entry: Option<&'a mut OnEntry<'a>>,
    pub(crate) events: Events,
    pub(crate) stop: Option<&'a AtomicBool>,
    pub(crate) states: Option<Box<dyn States>>,
    pub(crate) rounds: Option<&'a dyn Rounds>,
    pub(crate) after_step: Option<&'a dyn AfterStep>,
    pub(crate) sparse: Option<&'a dyn Sparse>,
}

impl<'a> Hooks<'a> {
    /// A run in `dir`, whose model `save_model` writes.
    pub fn new(dir: &'a RunDir, save_model: &'a SaveModel<'a>) -> Self {
        Self {
            dir,
            save_model,
            evaluate: None,
            on_entry: None,
            events: Events::none(),
            stop: None,
            states: None,
            rounds: None,
            after_step: None,
            sparse: None,
        }
    }

    /// With an evaluation, run as `eval_strategy` says.
    #[must_use]
    pub fn with_evaluation(self, evaluate: &'a mut Evaluate<'a>) -> Self {
        Self {
            evaluate: Some(evaluate),
            ..self
        }
    }

    /// With a listener, called for each entry before the next step.
    #[must_use]
    pub fn with_listener(self, on_entry: &'a mut OnEntry<'a>) -> Self {
        Self {
            on_entry: Some(on_entry),
            ..self
        }
    }

    /// Telling its steps, entries and checkpoints.
    #[must_use]
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// With a flag that, once set, ends the run after its present step, saved.
    #[must_use]
    pub fn with_stop(self, stop: &'a AtomicBool) -> Self {
        Self {
            stop: Some(stop),
            ..self
        }
    }

    /// With other optimiser states than AdamW's in f32, such as `optim` asks for.
    #[must_use]
    pub fn with_states(self, states: Box<dyn States>) -> Self {
        Self {
            states: Some(states),
            ..self
        }
    }

    /// With rows that train besides the parameters.
    #[must_use]
    pub fn with_sparse(self, sparse: &'a dyn Sparse) -> Self {
        Self {
            sparse: Some(sparse),
            ..self
        }
    }

    /// With what trains chosen anew from round to round.
    #[must_use]
    pub fn with_rounds(self, rounds: &'a dyn Rounds) -> Self {
        Self {
            rounds: Some(rounds),
            ..self
        }
    }

    /// With what moves by counting after each step.
    #[must_use]
    pub fn with_after_step(self, after_step: &'a dyn AfterStep) -> Self {
        Self {
            after_step: Some(after_step),
            ..self
        }
    }
}
