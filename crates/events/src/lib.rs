//! What a run tells whoever watches it.
//!
//! Libraries that train or read models have things to say: that rows were left out, that a checkpoint is on disk, how
//! far a piece of work is. If they print, they can stand under a command line and nowhere else. Here they tell a handle,
//! [`Events`], and the caller decides what becomes of it: lines on a terminal, JSON for a page, a channel, nothing.
//!
//! A handle is given by argument and not found in a global, so two runs in one process have each their own listener.
//! Telling costs a call; with [`Events::none`] not even the text is made.
//!
//! ```
//! use events::{Event, Events};
//!
//! fn read(rows: &[&str], events: &Events) -> usize {
//!     let work = events.begin("reading", rows.len());
//!     let kept = rows.iter().inspect(|_| work.advance(1)).filter(|row| !row.is_empty()).count();
//!     events.note(|| format!("{kept} rows"));
//!     kept
//! }
//!
//! let (events, heard) = Events::channel();
//! assert_eq!(read(&["a", "", "b"], &events), 2);
//! let told: Vec<Event> = heard.try_iter().collect();
//! assert!(told.contains(&Event::Note { text: "2 rows".into() }));
//! ```

mod event;
pub mod figures;
mod handle;
mod work;

pub use event::Event;
pub use handle::Events;
pub use work::Work;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
