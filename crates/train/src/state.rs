//! What a run remembers besides its tensors: `state.json`, enough to continue bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use events::Event;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::rounds::RoundState;
use crate::{Error, Result};

/// One object of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Optimiser steps done.
    pub step: usize,
    /// Passes over the data done.
    pub epoch: f64,
    /// What was measured, by name: `loss`, `learning_rate`, `eval/loss`, ….
    #[serde(flatten)]
    pub values: Map<String, Value>,
}

impl Entry {
    /// A measured number; none if there is none of that name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.values.get(name)?.as_f64()
    }

    /// Whether it is what an evaluation measured.
    pub(crate) fn is_evaluation(&self) -> bool {
        self.values.keys().any(|name| name.starts_with("eval/"))
    }

    /// As whoever follows the run is told.
    pub(crate) fn as_event(&self) -> Event {
        let (step, epoch, values) = (self.step, self.epoch, self.values.clone());
        match self.is_evaluation() {
            true => Event::Evaluated { step, epoch, values },
            false => Event::Trained { step, epoch, values },
        }
    }
}

/// The best evaluation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The metric's name, such as `eval/loss`.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// The step it was measured after.
    pub step: usize,
}

/// Sums since the last log entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) steps: usize,
    pub(crate) loss: f64,
    pub(crate) metrics: BTreeMap<String, f64>,
    #[serde(default)]
    pub(crate) ratios: BTreeMap<String, (f64, f64)>,
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
    /// Of the last step.
    pub(crate) learning_rate: f64,
    /// Of the last step, before clipping.
    pub(crate) grad_norm: f64,
}

/// Everything of a run that is not a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Of this file's form.
    pub(crate) version: usize,
    /// Optimiser steps done: also the position in the data, and in every random stream.
    pub(crate) step: usize,
    pub(crate) num_steps_per_epoch: usize,
    pub(crate) seed: u64,
    /// Tokens that went through the model.
    pub(crate) tokens: usize,
    /// Seconds of the run, interruptions left out.
    pub(crate) seconds: f64,
    /// Seconds spent in steps alone.
    pub(crate) step_seconds: f64,
    /// Sum of the losses of all steps.
    pub(crate) total_loss: f64,
    pub(crate) window: Window,
    pub(crate) best: Option<Best>,
    pub(crate) evaluations_without_improvement: usize,
    pub(crate) history: Vec<Entry>,
    /// Of a run in rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rounds: Option<RoundState>,
}

const VERSION: usize = 1;

impl State {
    pub(crate) fn new(seed: u64, num_steps_per_epoch: usize) -> Self {
        Self {
            version: VERSION,
            step: 0,
            num_steps_per_epoch,
            seed,
            tokens: 0,
            seconds: 0.0,
            step_seconds: 0.0,
            total_loss: 0.0,
            window: Window::default(),
            best: None,
            evaluations_without_improvement: 0,
            history: Vec::new(),
            rounds: None,
        }
    }

    /// Passes over the data done.
    pub(crate) fn epoch(&self) -> f64 {
        self.step as f64 / self.num_steps_per_epoch as f64
    }

    /// Reads a checkpoint's state for a run with this seed and these data.
    pub(crate) fn resume(path: &Path, seed: u64, num_steps_per_epoch: usize) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file(path, "read"))?;
        let wrong = |wanted: String, found: String, hint| Error::Checkpoint {
            path: path.to_owned(),
            wanted,
            found,
            hint,
        };
        let state: Self = serde_json::from_str(&text).map_err(|error| {
            wrong(
                "a run's state".into(),
                error.to_string(),
                "delete this checkpoint to resume from the one before",
            )
        })?;
        let same = "a run continues with the data and the seed that it began with; choose another `train.output_dir`";
        if state.version != VERSION {
            Err(wrong(
                format!("version {VERSION}"),
                state.version.to_string(),
                "resume with the program that wrote it",
            ))
        } else if state.num_steps_per_epoch != num_steps_per_epoch {
            let (wanted, found) = (num_steps_per_epoch, state.num_steps_per_epoch);
            Err(wrong(
                format!("{wanted} steps an epoch, as these data make"),
                found.to_string(),
                same,
            ))
        } else if state.seed != seed {
            Err(wrong(format!("seed {seed}"), state.seed.to_string(), same))
        } else {
            Ok(state)
        }
    }
}
