//! `finetune inspect`: what a model, an adapter or a data file is.

mod adapter;
mod model;
mod rows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::args::ReadArgs;
use crate::output;
use crate::ranges;

/// Arguments of `inspect`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Of a data file, the first rows are shown as --model would read them, with what is trained told apart.\n\n\
                  Example:\n  finetune inspect train.jsonl --model smollm2-135m-instruct --rows 2\n  \
                  finetune inspect pairs.csv --shape preference --columns prompt=question"
)]
pub struct Args {
    /// A model, an adapter's folder, or a data file
    what: String,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
    /// For a data file: show its rows as this model's tokenizer and chat template read them
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// For a data file: how many rows are shown
    #[arg(long, default_value_t = 3, value_name = "N")]
    rows: usize,
    /// For a data file: the most tokens of a row; longer rows are cut as in training
    #[arg(long, value_name = "N", value_parser = ranges::count(3))]
    max_length: Option<usize>,
    #[command(flatten)]
    reading: ReadArgs,
    /// For a model: every tensor's name, shape and dtype
    #[arg(long)]
    tensors: bool,
}

/// Endings of data files.
const DATA: [&str; 11] = [
    "jsonl", "ndjson", "json", "csv", "tsv", "parquet", "txt", // and compressed ones, which are refused by name
    "gz", "zst", "bz2", "xz",
];

impl Args {
    /// Looks what it is, and says so.
    pub fn run(self) -> Result<ExitCode> {
        let path = Path::new(&self.what);
        let ending = path
            .extension()
            .map(|ending| ending.to_string_lossy().to_lowercase())
            .unwrap_or_default();
        let facts = if methods::holds_adapter(path) {
            adapter::facts(path)?
        } else if !path.is_dir() && DATA.contains(&ending.as_str()) {
            rows::facts(
                &PathBuf::from(path),
                &self.reading,
                self.model.as_deref(),
                self.rows,
                self.max_length,
            )?
        } else {
            model::facts(&self.what, self.tensors)?
        };
        if self.json {
            output::json(&facts)?;
        } else {
            show(&facts)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A line a fact; lists of objects a line each.
fn show(facts: &Map<String, Value>) -> Result<()> {
    for (name, value) in facts {
        let name = name.replace('_', " ");
        match value {
            Value::Array(items) if items.iter().any(Value::is_object) => {
                output::line(format!("{name}:"))?;
                for item in items {
                    output::line(rows::shown(item).unwrap_or_else(|| format!("  {}", inline(item))))?;
                }
            }
            Value::Null => {}
            value => output::line(format!("{name:<24} {}", inline(value)))?,
        }
    }
    Ok(())
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(inline).collect::<Vec<_>>().join(", "),
        Value::Object(object) => object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name} {}", inline(value)))
            .collect::<Vec<_>>()
            .join("  "),
        other => other.to_string(),
    }
}
