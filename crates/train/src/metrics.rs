//! Where entries go as they are made: `metrics.jsonl` and TensorBoard.

use std::fs::File;
use std::io::Write;

use crate::tensorboard::Events;
use crate::{Entry, Error, ReportTo, Result, RunDir, TrainConfig};

/// Values that differ between two runs of the same recipe: everything else is the same bit for bit.
pub const TIMING: [&str; 4] = [
    "tokens_per_second",
    "rollout_tokens_per_second",
    "peak_memory_bytes",
    "seconds",
];

const FILE: &str = "metrics.jsonl";

/// The open files of a run.
#[derive(Debug)]
pub(crate) struct Metrics {
    lines: File,
    events: Option<Events>,
}

impl Metrics {
    /// Rewrites `metrics.jsonl` with `history`, so that nothing in it lies after the step that a run resumes from, and
    /// opens it for more.
    pub(crate) fn open(dir: &RunDir, config: &TrainConfig, history: &[Entry], step: usize) -> Result<Self> {
        let text: String = history.iter().map(line).collect();
        dir.write_file(FILE, text.as_bytes())?;
        let path = dir.path().join(FILE);
        let lines = File::options()
            .append(true)
            .open(&path)
            .map_err(Error::file(&path, "append to"))?;
        let events = config
            .report_to
            .contains(&ReportTo::Tensorboard)
            .then(|| Events::create(dir.path(), (step > 0).then_some(step)))
            .transpose()
            .map_err(Error::file(dir.path(), "write an event file in"))?;
        Ok(Self { lines, events })
    }

    /// Writes one entry everywhere.
    pub(crate) fn write(&mut self, dir: &RunDir, entry: &Entry) -> Result<()> {
        self.lines
            .write_all(line(entry).as_bytes())
            .map_err(Error::file(dir.path().join(FILE), "append to"))?;
        let Some(events) = &mut self.events else { return Ok(()) };
        for (name, value) in &entry.values {
            let tag = if name.starts_with("eval/") {
                name.clone()
            } else {
                format!("train/{name}")
            };
            if let Some(value) = value.as_f64() {
                events
                    .scalar(entry.step, &tag, value)
                    .map_err(Error::file(dir.path(), "write an event file in"))?;
            }
        }
        Ok(())
    }
}

fn line(entry: &Entry) -> String {
    let mut text = serde_json::to_string(entry).expect("plain numbers and strings serialise");
    text.push('\n');
    text
}
