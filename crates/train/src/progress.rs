//! The progress bar on a terminal: loss, tokens a second, memory, time left. Nothing where stderr is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bar of one run.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar over `total` steps, `done` of them done.
    pub(crate) fn new(total: usize, done: usize) -> Self {
        // indicatif draws nothing if stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {msg}  {eta} left") {
            bar.set_style(style);
        }
        bar.set_position(done as u64);
        bar.reset_eta();
        Self(bar)
    }

    /// One step more.
    pub(crate) fn step(&self, loss: f64, tokens_per_second: f64, memory: Option<u64>) {
        if self.0.is_hidden() {
            return;
        }
        let memory = memory.map_or_else(String::new, |bytes| format!("  {:.2} GB", bytes as f64 / 1e9));
        self.0
            .set_message(format!("loss {loss:.4}  {tokens_per_second:.0} tokens/s{memory}"));
        self.0.inc(1);
    }

    /// Says what is being done between two steps.
    pub(crate) fn say(&self, what: &'static str) {
        self.0.set_message(what);
    }

    /// Runs `print` with the bar out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
