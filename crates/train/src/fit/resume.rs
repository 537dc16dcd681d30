//! Back to where a checkpoint stands: its state, its round, its numbers.

use std::path::Path;

use tensor_core::LanguageModel;

use crate::rounds::RoundState;
use crate::run_dir::{MASTERS, OPTIMIZER, STATE};
use crate::state::State;
use crate::{Checkpoint, Error, Optimizer, Result, Rounds, tensors};

/// Reads a checkpoint into the model and the optimiser.
pub(super) fn load(
    checkpoint: &Checkpoint,
    model: &dyn LanguageModel,
    optimizer: &mut Optimizer,
    rounds: Option<&dyn Rounds>,
    (seed, num_steps_per_epoch): (u64, usize),
) -> Result<State> {
    let path = checkpoint.path.join(STATE);
    let state = State::resume(&path, seed, num_steps_per_epoch)?;
    if rounds.is_some() || state.rounds.is_some() {
        resume_round(&path, model, optimizer, rounds, state.rounds.as_ref())?;
    }
    tensors::read_into(&checkpoint.path.join(MASTERS), &optimizer.masters())?;
    tensors::read_into(&checkpoint.path.join(OPTIMIZER), &optimizer.states())?;
    if let Some(rounds) = rounds {
        optimizer.settle_aside(model, rounds.frozen_kind());
    }
    optimizer.continue_from(state.step);
    Ok(state)
}

/// Freezes and trains what the checkpoint at `path` did, if it is this choice's.
fn resume_round(
    path: &Path,
    model: &dyn LanguageModel,
    optimizer: &mut Optimizer,
    rounds: Option<&dyn Rounds>,
    found: Option<&RoundState>,
) -> Result<()> {
    let wrong = |found: String| Error::Checkpoint {
        path: path.to_owned(),
        wanted: match rounds {
            Some(rounds) => format!("wanted rounds of {}", rounds.origin()),
            None => "wanted a run without rounds".into(),
        },
        found,
        hint: "a run continues with the choice that it began with; choose another `train.output_dir`",
    };
    let found = found.ok_or_else(|| wrong("none".into()))?;
    let rounds = rounds.ok_or_else(|| wrong(found.origin.to_string()))?;
    if found.origin != rounds.origin() {
        return Err(wrong(found.origin.to_string()));
    }
    optimizer.redraw(model, &rounds.frozen(found.round), rounds.frozen_kind())?;
    if !optimizer.since().keys().eq(found.trained_since.keys()) {
        return Err(wrong(format!("another choice in round {}", found.round)));
    }
    optimizer.continue_round(model, &found.trained_since, &found.set_aside);
    Ok(())
}

/// What the next checkpoint says of this round.
pub(super) fn round_state(rounds: &dyn Rounds, round: usize, optimizer: &Optimizer) -> RoundState {
    RoundState {
        round,
        origin: rounds.origin(),
        trained_since: optimizer.since(),
        set_aside: optimizer.set_aside(),
    }
}
