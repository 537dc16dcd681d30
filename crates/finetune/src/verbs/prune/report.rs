//! What pruning did: for people as a table, for machines as `pruning.json`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use checkpoint::write_file;
use prune::{PruneConfig, Thinned};
use serde_json::{Value, json};

use super::measure::Measured;
use super::samples::Samples;
use crate::output;

/// Everything that is told.
pub(super) struct Report<'a> {
    /// The model's name.
    pub(super) model: &'a str,
    /// What was asked.
    pub(super) config: &'a PruneConfig,
    /// What was looked at.
    pub(super) samples: Option<&'a Samples>,
    /// Each matrix.
    pub(super) thinned: &'a [Thinned],
    /// The model as it was.
    pub(super) before: &'a Measured,
    /// The model as it is written.
    pub(super) after: &'a Measured,
    /// In all.
    pub(super) seconds: f64,
}

impl Report<'_> {
    /// `pruning.json` beside the model.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.as_json())? + "\n";
        Ok(write_file(&folder.join("pruning.json"), text.as_bytes())?)
    }

    /// On stdout.
    pub(super) fn tell(&self, as_json: bool) -> Result<()> {
        if as_json {
            return output::json(&self.as_json());
        }
        output::line(format!(
            "{:<12} {:>8} {:>14} {:>9}",
            "module", "matrices", "zeros", "sparsity"
        ))?;
        let mut by_name: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
        for one in self.thinned {
            let sum = by_name.entry(one.at.name()).or_default();
            *sum = (sum.0 + 1, sum.1 + one.num_zeros, sum.2 + size(one));
        }
        for (name, (count, zeros, all)) in by_name {
            let share = 100.0 * zeros as f64 / all as f64;
            output::line(format!("{name:<12} {count:>8} {zeros:>14} {share:>7.2} %"))?;
        }
        let (zeros, all) = self.zeros();
        let share = 100.0 * zeros as f64 / all as f64;
        let count = self.thinned.len();
        output::line(format!("{:<12} {count:>8} {zeros:>14} {share:>7.2} %\n", "all"))?;
        for line in compared(self.before, self.after) {
            output::line(line)?;
        }
        Ok(())
    }

    fn zeros(&self) -> (usize, usize) {
        let sum = |(zeros, all), one: &Thinned| (zeros + one.num_zeros, all + size(one));
        self.thinned.iter().fold((0, 0), sum)
    }

    fn as_json(&self) -> Value {
        let (zeros, all) = self.zeros();
        let modules = self.thinned.iter().map(|one| {
            json!({
                "module": one.at.as_str(),
                "shape": one.shape,
                "zeros": one.num_zeros,
                "sparsity": one.num_zeros as f64 / size(one) as f64,
            })
        });
        json!({
            "model": self.model,
            "options": self.config,
            "calibration": self.samples.map(|samples| json!({
                "file": samples.file(),
                "samples": samples.len(),
                "tokens": samples.num_tokens(),
            })),
            "zeros": zeros,
            "sparsity": zeros as f64 / all as f64,
            "before": numbers(self.before),
            "after": numbers(self.after),
            "seconds": self.seconds,
            "modules": modules.collect::<Vec<_>>(),
        })
    }
}

fn size(one: &Thinned) -> usize {
    (one.shape[0] * one.shape[1]) as usize
}

fn numbers(measured: &Measured) -> Value {
    json!({
        "parameters": measured.parameters,
        "nonzero": measured.nonzero,
        "bytes": measured.bytes,
        "read_tokens_per_second": measured.read_per_second,
        "written_tokens_per_second": measured.written_per_second,
        "perplexity": measured.perplexity,
    })
}

/// Each number before and after, a line each.
fn compared(before: &Measured, after: &Measured) -> Vec<String> {
    let line = |name: &str, before: String, after: String| format!("{name:<24} {before:>12} {after:>12}");
    let count = |count: usize| output::count(count as f64);
    let mut lines = vec![
        line("", "before".into(), "after".into()),
        line("parameters", count(before.parameters), count(after.parameters)),
        line("of them not zero", count(before.nonzero), count(after.nonzero)),
        line(
            "bytes",
            output::bytes(before.bytes as f64),
            output::bytes(after.bytes as f64),
        ),
        line(
            "tokens/s, reading",
            format!("{:.0}", before.read_per_second),
            format!("{:.0}", after.read_per_second),
        ),
    ];
    if let (Some(before), Some(after)) = (before.written_per_second, after.written_per_second) {
        lines.push(line("tokens/s, writing", format!("{before:.1}"), format!("{after:.1}")));
    }
    if let (Some(before), Some(after)) = (before.perplexity, after.perplexity) {
        lines.push(line("perplexity", format!("{before:.3}"), format!("{after:.3}")));
    }
    if before.bytes == after.bytes {
        lines.push("zeros are written as numbers: the file is no smaller, and a dense product no faster".to_owned());
    }
    lines
}
