//! Two pieces of work side by side in one process, each heard by its own listener.

use std::thread;

use events::{Event, Events};

fn count(up_to: usize, events: &Events) {
    let work = events.begin("numbers", up_to);
    for _ in 0..up_to {
        work.advance(1);
    }
    events.note(|| format!("counted to {up_to}"));
}

fn main() {
    let hear = |name: &'static str| {
        Events::new(move |event| {
            if let Event::Note { text } = event {
                println!("{name}: {text}");
            }
        })
    };
    let (one, other) = (hear("one"), hear("the other"));
    thread::scope(|scope| {
        scope.spawn(|| count(10, &one));
        scope.spawn(|| count(1000, &other));
    });
}
