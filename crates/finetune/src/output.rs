//! Standard output: results for people or machines. Messages go to stderr.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// A line of text.
pub fn line(text: impl AsRef<str>) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref())?;
    Ok(())
}

/// A piece of text that is shown at once.
pub fn piece(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A value as one line of JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string(value)?)
}

/// A message for whoever watches.
pub fn note(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// A message that is shown once in a process, however often it is given.
pub fn note_once(text: impl AsRef<str>) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.insert(text.as_ref().to_owned()) {
        note(text);
    }
}

/// Whether the reader of our output went away, as `head` does: no failure.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A bar on stderr over `total` things; nothing is drawn where stderr is no terminal.
pub fn bar(total: usize, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64)
        .with_style(style)
        .with_message(what.to_owned())
}

/// What `work` gives; whoever watches is told after ten seconds, then ever more rarely, that `waiting` is so.
pub fn patiently<T>(waiting: &str, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        scope.spawn(move || {
            let (mut waited, mut next) = (0, 10);
            // The sender is dropped when the work is done.
            while is_done.recv_timeout(Duration::from_secs(next)) == Err(mpsc::RecvTimeoutError::Timeout) {
                waited += next;
                note(format!("{waiting}, after {waited} s"));
                next = waited;
            }
        });
        let found = work();
        drop(done);
        found
    })
}

/// Bytes for people: `1.50 GB`.
pub fn bytes(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value:.0} B")
    } else {
        format!("{value:.2} {}", units[unit])
    }
}

/// A time for people: `1 h 02 min`, `3 min 05 s`, `4.2 s`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        3600.. => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        60.. => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{seconds:.1} s"),
    }
}

/// A count for people: `134.5 M`.
pub fn count(count: f64) -> String {
    match count {
        c if c >= 1e9 => format!("{:.2} B", c / 1e9),
        c if c >= 1e6 => format!("{:.1} M", c / 1e6),
        c if c >= 1e4 => format!("{:.1} k", c / 1e3),
        c => format!("{c:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (bytes(999.0), bytes(1_500_000_000.0)),
            ("999 B".into(), "1.50 GB".into())
        );
        assert_eq!(
            (seconds(4.2), seconds(185.0), seconds(3725.0)),
            ("4.2 s".into(), "3 min 05 s".into(), "1 h 02 min".into())
        );
        assert_eq!((count(134_515_008.0), count(12.0)), ("134.5 M".into(), "12".into()));
    }
}
