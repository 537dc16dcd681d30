//! What can be told.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

/// One thing that happened.
///
/// Serialised, it is an object whose key `event` names the variant: `{"event":"note","text":"…"}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A sentence worth reading, such as how many rows were read.
    Note {
        /// The sentence; it may have several lines.
        text: String,
    },
    /// Something that is probably not what the user means; the work goes on.
    Warning {
        /// What it is, without the word "warning".
        text: String,
    },
    /// Work that consists of `total` parts begins.
    Began {
        /// What the parts are: `tokenising`, `steps`.
        work: String,
        /// How many there are; 0 if that is not known yet.
        total: u64,
        /// How many were done before, by a run that is resumed.
        done: u64,
    },
    /// Some parts of the work are done, or it changed what it is at.
    Advanced {
        /// The work, as [`Event::Began`] named it.
        work: String,
        /// Parts that are done.
        done: u64,
        /// How many there are, as far as is known now.
        total: u64,
        /// What it is at, or its latest numbers, for people.
        message: String,
    },
    /// The work is over, finished or not.
    Ended {
        /// The work, as [`Event::Began`] named it.
        work: String,
    },
    /// The means of the training steps since the last such event: a line of `metrics.jsonl`.
    Trained {
        /// Optimiser steps done.
        step: usize,
        /// Passes over the data done.
        epoch: f64,
        /// Numbers by name: `loss`, `learning_rate`, `grad_norm`, `tokens_per_second` and others.
        values: Map<String, Value>,
    },
    /// What an evaluation measured: a line of `metrics.jsonl`.
    Evaluated {
        /// Optimiser steps done.
        step: usize,
        /// Passes over the data done.
        epoch: f64,
        /// Numbers by name, each beginning with `eval/`.
        values: Map<String, Value>,
    },
    /// The model wrote replies, and they were rewarded.
    Rollout {
        /// Its number, from 0.
        number: usize,
        /// Numbers by name: `reward`, `objective/kl` and others, as `rollouts/` has them.
        values: Map<String, Value>,
    },
    /// A checkpoint appeared on disk, whole.
    Saved {
        /// Optimiser steps done.
        step: usize,
        /// Its folder.
        path: PathBuf,
    },
}
