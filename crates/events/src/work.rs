//! Work in parts.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Event, Events};

/// Between two events about how far a piece of work is; what is done sooner is told with the next.
const BETWEEN: Duration = Duration::from_millis(50);

/// Work under way: dropped, it tells that it is over.
///
/// Several threads may advance one piece of work.
#[derive(Debug)]
pub struct Work {
    events: Events,
    name: String,
    total: AtomicU64,
    done: AtomicU64,
    message: Mutex<String>,
    told: Mutex<Instant>,
}

impl Work {
    pub(crate) fn new(events: Events, name: &str, total: u64, done: u64) -> Self {
        events.tell(|| Event::Began {
            work: name.to_owned(),
            total,
            done,
        });
        Self {
            events,
            name: name.to_owned(),
            total: total.into(),
            done: done.into(),
            message: Mutex::default(),
            told: Mutex::new(Instant::now()),
        }
    }

    /// `count` parts more are done.
    pub fn advance(&self, count: usize) {
        let done = self.done.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        self.tell(done >= self.total.load(Ordering::Relaxed));
    }

    /// As many parts are done as `done` says, of `total`.
    pub fn set(&self, done: usize, total: usize) {
        self.done.store(done as u64, Ordering::Relaxed);
        self.total.store(total as u64, Ordering::Relaxed);
        self.tell(done >= total);
    }

    /// What it is at, or its latest numbers, for people.
    pub fn say(&self, message: impl Into<String>) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message.into();
        self.tell(true);
    }

    /// One part more is done, with its numbers.
    pub fn step(&self, message: impl Into<String>) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.say(message);
    }

    fn tell(&self, at_once: bool) {
        // Whoever finds another thread telling leaves it to that one.
        let Ok(mut told) = self.told.try_lock() else { return };
        if !at_once && told.elapsed() < BETWEEN {
            return;
        }
        *told = Instant::now();
        self.events.tell(|| Event::Advanced {
            work: self.name.clone(),
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            message: self.message.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        });
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.events.tell(|| Event::Ended {
            work: std::mem::take(&mut self.name),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_parts_are_told_rarely_and_the_last_one_at_once() {
        let (events, heard) = Events::channel();
        let work = events.begin("rows", 1000);
        for _ in 0..1000 {
            work.advance(1);
        }
        drop(work);
        let told: Vec<Event> = heard.try_iter().collect();
        assert!(told.len() < 500, "{} events", told.len());
        let [Event::Began { total: 1000, .. }, .., last, Event::Ended { .. }] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(matches!(last, Event::Advanced { done: 1000, .. }), "{last:?}");
    }
}
