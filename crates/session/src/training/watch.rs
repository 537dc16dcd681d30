//! The caller's side of a run: what stops it, and what is heard and seen of it.

use std::sync::atomic::AtomicBool;

use decoder::Decoder;
use events::Events;

/// How a caller follows a run. The library catches no signals and ends no process.
#[derive(Clone)]
pub struct Watch<'a> {
    stop: &'a AtomicBool,
    allowed: &'a [String],
    events: Events,
    on_model: Option<&'a dyn Fn(&Decoder)>,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("stop", self.stop).finish_non_exhaustive()
    }
}

impl<'a> Watch<'a> {
    /// A run that ends after its present step, saved, once `stop` is set; nobody hears of it.
    pub fn new(stop: &'a AtomicBool) -> Self {
        Self {
            stop,
            allowed: &[],
            events: Events::none(),
            on_model: None,
        }
    }

    /// A run that is resumed though these keys of its recipe differ from those that it began with.
    #[must_use]
    pub fn allowing(self, keys: &'a [String]) -> Self {
        Self { allowed: keys, ..self }
    }

    /// Hears what the run tells.
    #[must_use]
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
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

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    pub(super) fn ended(&self, model: &Decoder) {
        if let Some(on_model) = self.on_model {
            on_model(model);
        }
    }
}
