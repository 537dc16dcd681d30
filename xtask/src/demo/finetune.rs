//! The built command as the demo uses it: its arguments, and what it answers. Nothing else in the demo knows them.

use crate::cargo;
use crate::place::checkout;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The `finetune` binary.
#[derive(Debug)]
pub(super) struct Finetune {
    binary: PathBuf,
}

/// What `finetune evaluate --json` found on the demo's suite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// Share of the held-out headlines that are labelled right.
    pub(super) accuracy: f64,
    /// The mean of the two labels' F1.
    pub(super) macro_f1: f64,
    /// Of general text.
    pub(super) perplexity: f64,
}

/// What `metrics.jsonl` tells of a training run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    /// The median over the logged steps.
    pub(super) tokens_per_second: f64,
    pub(super) peak_memory_bytes: f64,
    pub(super) steps: u64,
}

impl Finetune {
    pub(super) fn at(binary: PathBuf) -> Self {
        Self { binary }
    }

    /// `finetune evaluate`, with or without the adapter.
    pub(super) fn evaluate(&self, model: &str, adapter: Option<&Path>, suite: &Path) -> Result<Measured> {
        let mut command = self.command("evaluate", model, adapter);
        command.arg("--suite").arg(suite).arg("--json");
        report(&answer(command)?)
    }

    /// `finetune generate` on a file of questions, greedily: one answer each.
    pub(super) fn answers(&self, model: &str, adapter: Option<&Path>, questions: &Path) -> Result<Vec<String>> {
        let mut command = self.command("generate", model, adapter);
        command
            .arg("--data")
            .arg(questions)
            .args(["--max-new-tokens", "12", "--temperature", "0", "--json"]);
        texts(&answer(command)?)
    }

    /// Seconds that `finetune train` would take for the whole recipe here, by `finetune estimate`.
    pub(super) fn estimate(&self, recipe: &Path) -> Result<f64> {
        let mut command = Command::new(&self.binary);
        command
            .current_dir(checkout())
            .arg("estimate")
            .arg(recipe)
            .arg("--json");
        seconds(&answer(command)?)
    }

    /// `finetune train` on the first `rows` rows, its progress on the terminal. An earlier demo's run is replaced.
    pub(super) fn train(&self, recipe: &Path, rows: usize, output: &Path) -> Result<Run> {
        let mut command = Command::new(&self.binary);
        command.current_dir(checkout()).arg("train").arg(recipe);
        command
            .arg("--set")
            .arg(setting("train.output_dir", output.as_os_str()));
        command.args(["--set", "train.overwrite_output_dir=true"]);
        command.args(["--set", &format!("data.train.0.max_samples={rows}")]);
        cargo::run(&mut command)?;
        let metrics = output.join("metrics.jsonl");
        run(&fs::read_to_string(&metrics).with_context(|| format!("cannot read `{}`", metrics.display()))?)
    }

    fn command(&self, verb: &str, model: &str, adapter: Option<&Path>) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(checkout()).args([verb, "--model", model]);
        if let Some(adapter) = adapter {
            command.arg("--adapter").arg(adapter);
        }
        command
    }
}

fn setting(key: &str, value: &OsStr) -> String {
    format!("{key}={}", toml::Value::String(value.to_string_lossy().into_owned()))
}

fn answer(mut command: Command) -> Result<String> {
    let shown = cargo::shown(&command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{shown}`"))?;
    ensure!(output.status.success(), "`{shown}` failed ({})", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("the answer of `{shown}`"))
}

fn seconds(json: &str) -> Result<f64> {
    let report: serde_json::Value = serde_json::from_str(json).context("the answer of `finetune estimate --json`")?;
    let seconds = report["time"]["seconds"].as_f64();
    seconds.context("the answer of `finetune estimate --json` has no `time.seconds`")
}

fn report(json: &str) -> Result<Measured> {
    #[derive(Deserialize)]
    struct Report {
        tasks: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    }
    let report: Report = serde_json::from_str(json).context("the report of `finetune evaluate --json`")?;
    let number = |task: &str, name: &str| {
        let value = report
            .tasks
            .get(task)
            .and_then(|task| task.get(name))
            .and_then(serde_json::Value::as_f64);
        value.with_context(|| format!("the report of `finetune evaluate` has no `{name}` of `{task}`"))
    };
    Ok(Measured {
        accuracy: number("sarcasm", "accuracy")?,
        macro_f1: number("sarcasm", "macro_f1")?,
        perplexity: number("general", "perplexity")?,
    })
}

fn texts(json_lines: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Answer {
        text: String,
    }
    let text = |line| serde_json::from_str::<Answer>(line).map(|answer| answer.text);
    json_lines
        .lines()
        .map(text)
        .collect::<Result<_, _>>()
        .context("the answers of `finetune generate --json`")
}

fn run(metrics: &str) -> Result<Run> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
        tokens_per_second: Option<f64>,
        peak_memory_bytes: Option<f64>,
    }
    let lines = metrics
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Line>, _>>()
        .context("`metrics.jsonl`")?;
    let mut speeds: Vec<f64> = lines.iter().filter_map(|line| line.tokens_per_second).collect();
    speeds.sort_by(f64::total_cmp);
    Ok(Run {
        tokens_per_second: *speeds
            .get(speeds.len() / 2)
            .context("`metrics.jsonl` has no `tokens_per_second`")?,
        peak_memory_bytes: lines
            .iter()
            .filter_map(|line| line.peak_memory_bytes)
            .fold(0.0, f64::max),
        steps: lines.iter().map(|line| line.step).max().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_a_missing_number_is_named() {
        let json = r#"{"model":"m","tasks":{"sarcasm":{"accuracy":0.5,"macro_f1":0.25,"rows":500},"general":{"perplexity":18.5,"bits_per_byte":1.0}}}"#;
        assert_eq!(
            report(json).unwrap(),
            Measured {
                accuracy: 0.5,
                macro_f1: 0.25,
                perplexity: 18.5
            }
        );
        let error = report(&json.replace("macro_f1", "f1")).unwrap_err().to_string();
        assert!(error.contains("`macro_f1` of `sarcasm`"), "{error}");
    }

    #[test]
    fn the_speed_is_the_median_and_the_memory_the_peak() {
        let metrics = "{\"step\":1,\"tokens_per_second\":100.0,\"peak_memory_bytes\":5}\n\
                       {\"step\":2,\"tokens_per_second\":900.0,\"peak_memory_bytes\":9}\n\
                       {\"step\":2,\"eval/loss\":1.0}\n\
                       {\"step\":3,\"tokens_per_second\":800.0,\"peak_memory_bytes\":7}\n";
        assert_eq!(
            run(metrics).unwrap(),
            Run {
                tokens_per_second: 800.0,
                peak_memory_bytes: 9.0,
                steps: 3
            }
        );
        assert!(run("").is_err());
    }

    #[test]
    fn an_estimate_without_a_time_is_named() {
        assert_eq!(seconds(r#"{"time": {"seconds": 960.5, "steps": 188}}"#).unwrap(), 960.5);
        let error = seconds(r#"{"time": {}}"#).unwrap_err().to_string();
        assert!(error.contains("`time.seconds`"), "{error}");
    }

    #[test]
    fn a_path_is_quoted_as_the_recipe_wants_it() {
        assert_eq!(
            setting("train.output_dir", OsStr::new("a b\\c")),
            "train.output_dir='a b\\c'"
        );
    }
}
