//! The caller's side of a run: what stops it, and what is heard and seen of it.

use std::sync::atomic::AtomicBool;

use decoder::Decoder;
use train::Entry;

use crate::output;

/// How a caller follows a run. The library catches no signals and ends no process.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    stop: &'a AtomicBool,
    allowed: &'a [String],
    on_entry: Option<&'a dyn Fn(&Entry)>,
    on_model: Option<&'a dyn Fn(&Decoder)>,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("stop", self.stop).finish_non_exhaustive()
    }
}

impl<'a> Watch<'a> {
    /// A run that ends after its present step, saved, once `stop` is set.
    pub fn new(stop: &'a AtomicBool) -> Self {
        Self {
            stop,
            allowed: &[],
            on_entry: None,
            on_model: None,
        }
    }

    /// A run that is resumed though these keys of its recipe differ from those that it began with.
    #[must_use]
    pub fn allowing(self, keys: &'a [String]) -> Self {
        Self { allowed: keys, ..self }
    }

    /// Hears each entry of `metrics.jsonl`.
    #[must_use]
    pub fn with_listener(self, on_entry: &'a dyn Fn(&Entry)) -> Self {
        Self {
            on_entry: Some(on_entry),
            ..self
        }
    }

    /// Sees the model as the run leaves it, finished or stopped.
    #[must_use]
    pub fn with_model(self, on_model: &'a dyn Fn(&Decoder)) -> Self {
        Self {
            on_model: Some(on_model),
            ..self
        }
    }

    pub(super) fn stop(&self) -> &'a AtomicBool {
        self.stop
    }

    pub(super) fn allowed(&self) -> &'a [String] {
        self.allowed
    }

    pub(super) fn heard(&self, entry: &Entry) {
        announce(entry);
        if let Some(on_entry) = self.on_entry {
            on_entry(entry);
        }
    }

    pub(super) fn ended(&self, model: &Decoder) {
        if let Some(on_model) = self.on_model {
            on_model(model);
        }
    }
}

/// One line a log entry, for whoever reads the log afterwards.
fn announce(entry: &Entry) {
    let number = |name: &str| entry.number(name);
    if let (Some(loss), Some(rate)) = (number("loss"), number("learning_rate")) {
        let speed = number("tokens_per_second").unwrap_or(0.0);
        output::note(format!(
            "step {:>5}  epoch {:.2}  loss {loss:.4}  learning rate {rate:.2e}  {speed:.0} tokens/s",
            entry.step, entry.epoch
        ));
        return;
    }
    let measured: Vec<String> = entry
        .values
        .iter()
        .filter_map(|(name, value)| Some(format!("{name} {:.4}", value.as_f64()?)))
        .collect();
    output::note(format!("step {:>5}  {}", entry.step, measured.join("  ")));
}
