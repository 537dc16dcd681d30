//! The seam for runs in which what trains is chosen anew: round after round, one part moves and the rest stays.
//!
//! Why this form: a round is a function of the step, and what it freezes a function of the round, so that a resumed run
//! finds its round again from the step alone. The model is changed between two steps, behind its handles
//! ([`tensor_core::Param::freeze_in_place`]); the loop moves the optimiser's states along.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Kind;
use tensor_core::ModulePath;

/// What trains, round by round.
pub trait Rounds {
    /// The round (from 0) that optimiser step `step` (from 0) lies in; it never falls.
    fn round_of(&self, step: usize, num_steps_per_epoch: usize) -> usize;

    /// The parameters that a round freezes; all others train.
    fn frozen(&self, round: usize) -> BTreeSet<ModulePath>;

    /// The dtype of frozen parameters: the model's.
    fn frozen_kind(&self) -> Kind;

    /// What the choice depends on, its seed among it: a run resumes with the same only.
    fn origin(&self) -> Value;
}

/// What a checkpoint says of its round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoundState {
    /// Which round it is, from 0.
    pub(crate) round: usize,
    /// [`Rounds::origin`].
    pub(crate) origin: Value,
    /// What trains, and the updates made before it began to.
    pub(crate) trained_since: BTreeMap<String, usize>,
    /// What trained in an earlier round and is frozen now.
    pub(crate) set_aside: BTreeSet<String>,
}
