//! What pruning did: for people as a table, for machines as `pruning.json`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use checkpoint::write_file;
use methods::pruning::Samples;
use prune::{PruneConfig, Thinned};
use serde_json::{Value, json};

use rewrite::prune::{Measured, Taken};

use crate::output;

/// Everything that is told.
pub(super) struct Report<'a> {
    /// The model's name.
    pub(super) model: &'a str,
    /// What was done to it.
    pub(super) done: &'a Done,
    /// What was looked at.
    pub(super) samples: Option<&'a Samples>,
    /// The model as it was.
    pub(super) before: &'a Measured,
    /// The model as it is written.
    pub(super) after: &'a Measured,
    /// In all.
    pub(super) seconds: f64,
}

/// What was done to a model.
pub(super) enum Done {
    /// Weights became zero.
    Weights {
        /// What was asked.
        config: PruneConfig,
        /// Each matrix.
        thinned: Vec<Thinned>,
    },
    /// Whole parts went.
    Parts(Taken),
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
        let lines = match self.done {
            Done::Weights { thinned, .. } => by_module(thinned),
            Done::Parts(taken) => taken.lines(),
        };
        let lines = lines.into_iter().chain([String::new()]);
        lines
            .chain(compared(self.before, self.after))
            .try_for_each(output::line)
    }

    fn as_json(&self) -> Value {
        let mut value = json!({
            "model": self.model,
            "calibration": self.samples.map(|samples| json!({
                "file": samples.file(),
                "samples": samples.lengths().len(),
                "tokens": samples.lengths().sum::<usize>(),
            })),
            "before": numbers(self.before),
            "after": numbers(self.after),
            "seconds": self.seconds,
        });
        match self.done {
            Done::Weights { config, thinned } => {
                let (zeros, all) = sums(thinned);
                value["options"] = json!(config);
                value["zeros"] = json!(zeros);
                value["sparsity"] = json!(zeros as f64 / all as f64);
                let modules = thinned.iter().map(|one| {
                    json!({
                        "module": one.at.as_str(),
                        "shape": one.shape,
                        "zeros": one.num_zeros,
                        "sparsity": one.num_zeros as f64 / size(one) as f64,
                    })
                });
                value["modules"] = modules.collect();
            }
            Done::Parts(taken) => value["parts"] = taken.as_json(),
        }
        value
    }
}

/// Zeros and weights.
fn sums(thinned: &[Thinned]) -> (usize, usize) {
    let sum = |(zeros, all), one: &Thinned| (zeros + one.num_zeros, all + size(one));
    thinned.iter().fold((0, 0), sum)
}

fn size(one: &Thinned) -> usize {
    (one.shape[0] * one.shape[1]) as usize
}

/// The zeros of all matrices of a name, a line each.
fn by_module(thinned: &[Thinned]) -> Vec<String> {
    let mut by_name: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for one in thinned {
        let sum = by_name.entry(one.at.name()).or_default();
        *sum = (sum.0 + 1, sum.1 + one.num_zeros, sum.2 + size(one));
    }
    let (zeros, all) = sums(thinned);
    let total = ("all", (thinned.len(), zeros, all));
    let head = format!("{:<12} {:>8} {:>14} {:>9}", "module", "matrices", "zeros", "sparsity");
    let line = |(name, (count, zeros, all)): (&str, (usize, usize, usize))| {
        format!(
            "{name:<12} {count:>8} {zeros:>14} {:>7.2} %",
            100.0 * zeros as f64 / all as f64
        )
    };
    std::iter::once(head)
        .chain(by_name.into_iter().chain([total]).map(line))
        .collect()
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
