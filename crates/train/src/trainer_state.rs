//! `trainer_state.json` as Transformers 5.23 writes it: what plotting tools read.
//!
//! Deviation: `total_flos` is 0; the operations are not counted.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::state::State;
use crate::{Entry, TrainConfig};

/// Transformers' dataclass, its fields in the order that it sorts them to.
#[derive(Serialize)]
struct TrainerState {
    best_global_step: Option<usize>,
    best_metric: Option<f64>,
    best_model_checkpoint: Option<String>,
    epoch: f64,
    eval_steps: usize,
    global_step: usize,
    is_hyper_param_search: bool,
    is_local_process_zero: bool,
    is_world_process_zero: bool,
    log_history: Vec<BTreeMap<String, Value>>,
    logging_steps: usize,
    max_steps: usize,
    num_input_tokens_seen: usize,
    num_train_epochs: usize,
    save_steps: usize,
    stateful_callbacks: BTreeMap<String, Value>,
    total_flos: f64,
    train_batch_size: usize,
    trial_name: Option<String>,
    trial_params: Option<Value>,
}

/// The file's text, for the checkpoint of this step or, if the run `is_finished`, with Transformers' closing entry.
/// `folder` is the run's.
pub(crate) fn text(state: &State, config: &TrainConfig, folder: &Path, is_finished: bool) -> String {
    let max_steps = config.total_steps(state.num_steps_per_epoch);
    let mut log_history: Vec<_> = state.history.iter().map(entry).collect();
    if is_finished {
        log_history.push(closing(state));
    }
    let written = TrainerState {
        best_global_step: state.best.as_ref().map(|best| best.step),
        best_metric: state.best.as_ref().map(|best| best.value),
        best_model_checkpoint: state.best.as_ref().and_then(|best| {
            let path = folder.join(format!("checkpoint-{}", best.step));
            // The one that is being saved now has not got its name yet.
            let is_there = path.exists() || (!is_finished && best.step == state.step);
            is_there.then(|| path.display().to_string())
        }),
        epoch: state.epoch(),
        eval_steps: config.eval_interval(),
        global_step: state.step,
        is_hyper_param_search: false,
        is_local_process_zero: true,
        is_world_process_zero: true,
        log_history,
        logging_steps: config.logging_steps,
        max_steps,
        num_input_tokens_seen: state.tokens,
        num_train_epochs: max_steps.div_ceil(state.num_steps_per_epoch),
        save_steps: config.save_interval(),
        stateful_callbacks: BTreeMap::new(),
        total_flos: 0.0,
        train_batch_size: config.per_device_train_batch_size,
        trial_name: None,
        trial_params: None,
    };
    let mut text = serde_json::to_string_pretty(&written).expect("plain numbers and strings serialise");
    text.push('\n');
    text
}

/// An entry under Transformers' names: `eval_loss` for `eval/loss`.
fn entry(entry: &Entry) -> BTreeMap<String, Value> {
    let named = entry.values.iter().map(|(name, value)| {
        let name = name
            .strip_prefix("eval/")
            .map_or_else(|| name.clone(), |rest| format!("eval_{rest}"));
        let name = if name == "tokens" {
            "num_input_tokens_seen".to_owned()
        } else {
            name
        };
        (name, value.clone())
    });
    named
        .chain([
            ("step".to_owned(), json!(entry.step)),
            ("epoch".to_owned(), json!(entry.epoch)),
        ])
        .collect()
}

fn closing(state: &State) -> BTreeMap<String, Value> {
    let steps = state.step as f64;
    [
        ("epoch", json!(state.epoch())),
        ("step", json!(state.step)),
        ("total_flos", json!(0.0)),
        ("train_loss", json!(state.total_loss / steps.max(1.0))),
        ("train_runtime", json!(state.seconds)),
        ("train_steps_per_second", json!(steps / state.seconds.max(1e-9))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
