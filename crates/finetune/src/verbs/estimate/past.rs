//! What a run that is over took, from its `metrics.jsonl`.

use std::path::Path;

use serde_json::Value;

use super::object;

/// The record of a run.
pub(super) struct Past {
    pub(super) peak: Option<f64>,
    pub(super) tokens_per_second: f64,
}

/// Reads it; none if the folder holds no run with a logged step.
pub(super) fn read(folder: &Path) -> Option<Past> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).ok()?;
    let entries: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let numbers = |name: &str| -> Vec<f64> { entries.iter().filter_map(|entry| entry.get(name)?.as_f64()).collect() };
    let mut speeds = numbers("tokens_per_second");
    speeds.sort_by(f64::total_cmp);
    Some(Past {
        peak: numbers("peak_memory_bytes").into_iter().reduce(f64::max),
        tokens_per_second: *speeds.get(speeds.len() / 2)?,
    })
}

impl Past {
    pub(super) fn as_json(&self) -> Value {
        object(
            self.peak
                .map(|peak| ("peak", peak))
                .into_iter()
                .chain([("tokens per second", self.tokens_per_second)]),
        )
    }
}
