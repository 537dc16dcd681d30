//! How far a download or an unpacking is, watched from outside: by how much its folder has grown.

use crate::place::Note;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

/// A bar that follows the size of a folder; two plain lines where stderr is no terminal.
pub struct Watch {
    label: String,
    begun: Instant,
    note: Note,
    bar: Option<(ProgressBar, Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Watch {
    /// Follows `folder` until it holds `bytes`.
    pub(crate) fn folder(label: &str, folder: &Path, bytes: u64, note: Note) -> Self {
        let bar = io::stderr()
            .is_terminal()
            .then(|| follow(label, folder.to_owned(), bytes));
        if bar.is_none() {
            note(&format!("{label} ({})", size(bytes)));
        }
        Self {
            label: label.to_owned(),
            begun: Instant::now(),
            note,
            bar,
        }
    }

    /// Says that it is done, and how long it took.
    pub fn done(mut self) {
        self.stop();
        (self.note)(&format!(
            "{}: done in {:.1} s",
            self.label,
            self.begun.elapsed().as_secs_f64()
        ));
    }

    fn stop(&mut self) {
        if let Some((bar, over, thread)) = self.bar.take() {
            over.store(true, Ordering::Relaxed);
            let _ = thread.join();
            bar.finish_and_clear();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

fn follow(label: &str, folder: PathBuf, bytes: u64) -> (ProgressBar, Arc<AtomicBool>, JoinHandle<()>) {
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(bytes).with_style(style).with_message(label.to_owned());
    let over = Arc::new(AtomicBool::new(false));
    let (seen, told) = (bar.clone(), Arc::clone(&over));
    let thread = thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            seen.set_position(grown(&folder).min(bytes));
            thread::sleep(Duration::from_millis(200));
        }
    });
    (bar, over, thread)
}

fn grown(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => grown(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    sizes.sum()
}

/// A number of bytes for people: `531 MB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        1_000_000..10_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        10_000_000..10_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_as_large_as_all_that_lies_in_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("a"), [0; 10]).unwrap();
        fs::write(folder.path().join("inner/b"), [0; 32]).unwrap();
        assert_eq!(grown(folder.path()), 42);
        assert_eq!(grown(&folder.path().join("missing")), 0);
    }

    #[test]
    fn sizes_are_written_for_people() {
        let rows = [
            (39_683, "40 kB"),
            (2_243_632, "2.2 MB"),
            (530_604_548, "531 MB"),
            (12_000_000_000, "12.0 GB"),
        ];
        for (bytes, wanted) in rows {
            assert_eq!(size(bytes), wanted);
        }
    }
}
