//! The handle that is told.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{Event, Work};

/// Where events go. Clones tell the same listener.
#[derive(Clone, Default)]
pub struct Events(Option<Arc<Listener>>);

struct Listener {
    hear: Box<dyn Fn(Event) + Send + Sync>,
    told_once: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Events(heard)"
        } else {
            "Events(none)"
        })
    }
}

impl Events {
    /// Events that nobody hears.
    pub fn none() -> Self {
        Self(None)
    }

    /// Events that `hear` is called with, on the thread that tells them.
    pub fn new(hear: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Listener {
            hear: Box::new(hear),
            told_once: Mutex::default(),
        })))
    }

    /// Events that arrive at a receiver; once it is dropped, nobody hears them.
    pub fn channel() -> (Self, Receiver<Event>) {
        let (sender, receiver) = mpsc::channel();
        let events = Self::new(move |event| {
            let _ = sender.send(event);
        });
        (events, receiver)
    }

    /// Tells `event`; it is not even made where nobody hears.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(listener) = &self.0 {
            (listener.hear)(event());
        }
    }

    /// Tells a sentence worth reading.
    pub fn note<T: Into<String>>(&self, text: impl FnOnce() -> T) {
        self.tell(|| Event::Note { text: text().into() });
    }

    /// Tells that something is probably not what the user means.
    pub fn warn<T: Into<String>>(&self, text: impl FnOnce() -> T) {
        self.tell(|| Event::Warning { text: text().into() });
    }

    /// Tells a sentence that this handle and its clones tell once, however often it is given.
    pub fn note_once(&self, text: impl Into<String>) {
        let (Some(listener), text) = (&self.0, text.into()) else {
            return;
        };
        let mut told = listener.told_once.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = told.insert(text.clone());
        // A listener may tell again.
        drop(told);
        if is_new {
            self.note(|| text);
        }
    }

    /// Work of `total` parts, which tells how far it is and, when it is dropped, that it is over.
    pub fn begin(&self, work: &str, total: usize) -> Work {
        self.resume(work, total, 0)
    }

    /// As [`Self::begin`], with `done` parts that were done before.
    pub fn resume(&self, work: &str, total: usize, done: usize) -> Work {
        Work::new(self.clone(), work, total as u64, done as u64)
    }

    /// What `work` returns; after ten seconds, then ever more rarely, a note tells that it is `waiting`.
    pub fn wait<T>(&self, waiting: &str, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            scope.spawn(move || {
                let (mut waited, mut next) = (0, 10);
                // The sender is dropped when the work is done.
                while is_done.recv_timeout(Duration::from_secs(next)) == Err(RecvTimeoutError::Timeout) {
                    waited += next;
                    self.note(|| format!("{waiting}, after {waited} s"));
                    next = waited;
                }
            });
            let returned = work();
            drop(done);
            returned
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_told_once_by_a_handle_and_its_clones() {
        let (events, heard) = Events::channel();
        let clone = events.clone();
        events.note_once("a");
        clone.note_once("a");
        clone.note_once("b");
        let texts: Vec<Event> = heard.try_iter().collect();
        let note = |text: &str| Event::Note { text: text.into() };
        assert_eq!(texts, [note("a"), note("b")]);
        // Another handle has told nothing yet.
        let (other, heard) = Events::channel();
        other.note_once("a");
        assert_eq!(heard.try_iter().count(), 1);
    }

    #[test]
    fn nothing_is_made_where_nobody_hears() {
        Events::none().note(|| -> String { panic!("made") });
        let work = Events::none().begin("rows", 3);
        work.advance(3);
    }

    #[test]
    fn an_event_is_json_with_its_name() {
        let event = Event::Warning { text: "odd".into() };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"warning","text":"odd"}"#
        );
    }
}
