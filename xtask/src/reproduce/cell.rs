//! One cell: an arm with a seed, run by the built command in a folder of its own.

use super::results::{Measures, mean};
use super::study::{Arm, Step};
use crate::cargo;
use crate::place::checkout;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Where a study's cells find what they need.
pub(crate) struct Place {
    /// The built `finetune`.
    pub(crate) binary: PathBuf,
    /// The rows and suites.
    pub(crate) data: PathBuf,
    /// The folder of the study's cells.
    pub(crate) study: PathBuf,
}

/// Bytes of the smallest file that is removed of a finished cell: adapters stay.
const LARGE: u64 = 64 << 20;

/// `result.json` of a finished cell.
#[derive(Serialize, Deserialize)]
struct Finished {
    /// Of the commands that made it.
    fingerprint: String,
    measures: Measures,
}

/// Whether steps of `others` read what `arm` leaves.
pub(crate) fn is_read_by(arm: &Arm, others: &[Arm]) -> bool {
    let folder = format!("{{study}}/{}-", folder_name(&arm.name));
    others
        .iter()
        .any(|other| format!("{:?}", other.steps).contains(&folder))
}

fn remove_large(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let entry = entry?;
        let (path, facts) = (entry.path(), entry.metadata()?);
        if facts.is_dir() {
            remove_large(&path)?;
        } else if facts.len() >= LARGE {
            fs::remove_file(&path).with_context(|| format!("cannot remove `{}`", path.display()))?;
        }
    }
    Ok(())
}

impl Place {
    /// The measures of a cell, run now if it is not finished.
    pub(crate) fn cell(&self, arm: &Arm, seed: u64) -> Result<Measures> {
        self.steps(&format!("{}-{seed}", folder_name(&arm.name)), &arm.steps, (seed, ""))
    }

    /// Removes what is large of a finished cell: its numbers are kept, and nothing reads its weights again.
    pub(crate) fn let_go(&self, arm: &Arm, seed: u64) -> Result<()> {
        remove_large(&self.study.join(format!("{}-{seed}", folder_name(&arm.name))))
    }

    /// The measures of some steps in the folder `name`, run now if they are not finished; `after` changes with what
    /// they build on. Besides: `wall.minutes`, what they took.
    pub(crate) fn steps(&self, name: &str, steps: &[Step], (seed, after): (u64, &str)) -> Result<Measures> {
        let folder = self.study.join(name);
        let fingerprint = fingerprint(steps, seed, after);
        let begun = Instant::now();
        let finished = folder.join("result.json");
        if let Some(known) = read(&finished).filter(|known| known.fingerprint == fingerprint) {
            return Ok(known.measures);
        }
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let mut measures = Measures::new();
        for step in steps {
            self.step(step, &folder, seed, &mut measures)?;
        }
        measures.insert("wall.minutes".to_owned(), begun.elapsed().as_secs_f64() / 60.0);
        super::studies::derive(&mut measures);
        let text = serde_json::to_string_pretty(&Finished {
            fingerprint,
            measures: measures.clone(),
        })?;
        let aside = folder.join("result.partial");
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &finished))
            .with_context(|| format!("cannot write `{}`", finished.display()))?;
        Ok(measures)
    }

    fn step(&self, step: &Step, folder: &Path, seed: u64, measures: &mut Measures) -> Result<()> {
        let fill = |text: &str| self.fill(text, folder, seed);
        match step {
            Step::Train { name, recipe } => {
                let path = folder.join(format!("{name}.toml"));
                fs::write(&path, fill(recipe)).with_context(|| format!("cannot write `{}`", path.display()))?;
                let output = folder.join(name);
                let mut command = self.command(folder, name)?;
                command.arg("train").arg(&path).arg("--set");
                command.arg(format!(
                    "train.output_dir={}",
                    toml::Value::String(output.display().to_string())
                ));
                command.args(["--set", &format!("train.seed={seed}")]);
                cargo::run(&mut command).with_context(|| said(folder, name))?;
                let metrics = output.join("metrics.jsonl");
                let text = fs::read_to_string(&metrics).with_context(|| format!("`{}`", metrics.display()))?;
                measures.extend(of_training(name, &text)?);
            }
            Step::Run { arguments } => {
                let name = arguments.first().map_or("command", String::as_str);
                let mut command = self.command(folder, name)?;
                command.args(arguments.iter().map(|argument| fill(argument)));
                cargo::run(command.stdout(Stdio::null())).with_context(|| said(folder, name))?;
            }
            Step::Ask {
                name,
                config,
                rows,
                count,
            } => {
                let (path, asked) = (
                    folder.join(format!("{name}.toml")),
                    folder.join(format!("{name}.jsonl")),
                );
                fs::write(&path, fill(config)).with_context(|| format!("cannot write `{}`", path.display()))?;
                let rows = fill(rows);
                let text = fs::read_to_string(&rows).with_context(|| format!("`{rows}`"))?;
                let first: Vec<&str> = text.lines().take(*count).collect();
                fs::write(&asked, first.join("\n")).with_context(|| format!("cannot write `{}`", asked.display()))?;
                let mut command = self.command(folder, name)?;
                command.arg("moa").arg("--config").arg(&path).arg("--data").arg(&asked);
                let output = command
                    .output()
                    .with_context(|| format!("cannot run `{}`", cargo::shown(&command)))?;
                ensure!(
                    output.status.success(),
                    "`{}` failed ({})\n{}",
                    cargo::shown(&command),
                    output.status,
                    said(folder, name)
                );
                measures.extend(of_answers(name, &String::from_utf8_lossy(&output.stdout))?);
            }
            Step::Numbers { name, file } => {
                let path = fill(file);
                let text = fs::read(&path).with_context(|| format!("cannot read `{path}`"))?;
                numbers(
                    name,
                    &serde_json::from_slice(&text).with_context(|| format!("`{path}`"))?,
                    measures,
                );
            }
            Step::Evaluate { name, model, suite } => {
                let mut command = self.command(folder, name)?;
                command
                    .arg("evaluate")
                    .args(model.iter().map(|argument| fill(argument)));
                command.arg("--suite").arg(self.data.join(suite)).arg("--json");
                let output = command
                    .output()
                    .with_context(|| format!("cannot run `{}`", cargo::shown(&command)))?;
                ensure!(
                    output.status.success(),
                    "`{}` failed ({})\n{}",
                    cargo::shown(&command),
                    output.status,
                    said(folder, name)
                );
                measures.extend(of_report(name, &serde_json::from_slice(&output.stdout)?));
            }
        }
        Ok(())
    }

    /// The command, its messages in a log beside what it makes.
    fn command(&self, folder: &Path, name: &str) -> Result<Command> {
        let log = log(folder, name);
        let file = fs::File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
        let mut command = Command::new(&self.binary);
        command.current_dir(checkout()).stderr(file).stdin(Stdio::null());
        Ok(command)
    }

    fn fill(&self, text: &str, folder: &Path, seed: u64) -> String {
        text.replace("{out}", &folder.to_string_lossy())
            .replace("{study}", &self.study.to_string_lossy())
            .replace("{data}", &self.data.to_string_lossy())
            .replace("{seed}", &seed.to_string())
    }
}

fn folder_name(arm: &str) -> String {
    arm.chars()
        .map(|c| {
            if c.is_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect()
}

fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}.log", folder_name(name)))
}

/// The last lines that a command said.
fn said(folder: &Path, name: &str) -> String {
    let text = fs::read_to_string(log(folder, name)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(6).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Changes with the commands and with what stands in the place of their names.
fn fingerprint(steps: &[Step], seed: u64, after: &str) -> String {
    let digest = Sha256::digest(format!("{steps:?} {seed}{after}"));
    digest
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn read(path: &Path) -> Option<Finished> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// What `metrics.jsonl` tells of a run.
fn of_training(name: &str, metrics: &str) -> Result<Measures> {
    let mut lines = Vec::new();
    for line in metrics.lines() {
        lines.push(serde_json::from_str::<Value>(line).context("a line of `metrics.jsonl`")?);
    }
    let all = |key: &str| -> Vec<f64> { lines.iter().filter_map(|line| line.get(key)?.as_f64()).collect() };
    let mut measures = Measures::new();
    let losses = all("loss");
    ensure!(!losses.is_empty(), "`metrics.jsonl` has no `loss`");
    let last = &losses[losses.len() - losses.len().div_ceil(10)..];
    measures.extend(mean(last).map(|loss| (format!("{name}.loss"), loss)));
    let violations = all("max_violation");
    let last = &violations[violations.len() - violations.len().div_ceil(10)..];
    measures.extend(mean(last).map(|violation| (format!("{name}.max_violation"), violation)));
    for key in ["tokens_per_second", "rollout_tokens_per_second"] {
        let mut speeds = all(key);
        speeds.sort_by(f64::total_cmp);
        let middle = speeds.get(speeds.len() / 2);
        measures.extend(middle.map(|&speed| (format!("{name}.{key}"), speed)));
    }
    // Of the steps: an evaluation packs other rows, and has its own peak.
    let steps = lines.iter().filter(|line| line.get("loss").is_some());
    let peak = steps
        .filter_map(|line| line.get("peak_memory_bytes")?.as_f64())
        .reduce(f64::max);
    measures.extend(peak.map(|bytes| (format!("{name}.peak_memory"), bytes)));
    // The last evaluation's numbers.
    for line in &lines {
        for (key, value) in line
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.starts_with("eval/"))
        {
            measures.extend(value.as_f64().map(|value| (format!("{name}.{key}"), value)));
        }
    }
    let seconds = all("seconds").into_iter().reduce(f64::max);
    measures.extend(seconds.map(|seconds| (format!("{name}.minutes"), seconds / 60.0)));
    Ok(measures)
}

/// What the lines of `finetune moa` tell, as means over the questions.
fn of_answers(name: &str, lines: &str) -> Result<Measures> {
    let mut all: Vec<[f64; 4]> = Vec::new();
    for line in lines.lines() {
        let answer: Value = serde_json::from_str(line).context("a line of `finetune moa`")?;
        let copied = answer["copied_2"].as_object().into_iter().flatten();
        all.push([
            answer["distinct_2"].as_f64().unwrap_or(0.0),
            copied.filter_map(|(_, share)| share.as_f64()).fold(0.0, f64::max),
            answer["tokens"].as_f64().unwrap_or(0.0),
            answer["failures"].as_array().map_or(0, Vec::len) as f64,
        ]);
    }
    ensure!(!all.is_empty(), "`finetune moa` answered nothing");
    let names = ["distinct_2", "copied_2", "tokens", "failures"];
    let means = names.iter().enumerate().map(|(idx, key)| {
        let sum: f64 = all.iter().map(|numbers| numbers[idx]).sum();
        (format!("{name}.{key}"), sum / all.len() as f64)
    });
    Ok(means.collect())
}

/// Every number of a JSON object and of those within, by their keys with dots between.
fn numbers(name: &str, value: &Value, measures: &mut Measures) {
    if let Some(number) = value.as_f64() {
        measures.insert(name.to_owned(), number);
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        numbers(&format!("{name}.{key}"), value, measures);
    }
}

/// Every number of a report of `finetune evaluate --json`: `NAME.TASK.METRIC`.
fn of_report(name: &str, report: &Value) -> Measures {
    let mut measures = Measures::new();
    for (task, found) in report["tasks"].as_object().into_iter().flatten() {
        for (metric, value) in found.as_object().into_iter().flatten() {
            if let Some(value) = value.as_f64() {
                measures.insert(format!("{name}.{task}.{metric}"), value);
            }
        }
    }
    measures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_goes_unless_another_arm_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let place = Place {
            binary: PathBuf::new(),
            data: PathBuf::new(),
            study: home.path().to_owned(),
        };
        let whole = Arm::new("all of it", Vec::new());
        let part = Arm::new(
            "part",
            vec![Step::run("experts --model {study}/all-of-it-{seed}/train")],
        );
        assert!(is_read_by(&whole, std::slice::from_ref(&part)) && !is_read_by(&part, &[whole, part.clone()]));
        let folder = home.path().join("part-3/train");
        fs::create_dir_all(&folder).unwrap();
        fs::File::create(folder.join("model.safetensors"))
            .unwrap()
            .set_len(LARGE)
            .unwrap();
        fs::write(folder.join("metrics.jsonl"), "{}").unwrap();
        place.let_go(&part, 3).unwrap();
        let left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["metrics.jsonl"]);
    }
    use std::os::unix::fs::PermissionsExt as _;

    /// A stand-in for the command: counts its calls, answers `evaluate`, writes metrics for `train`.
    fn place(home: &Path) -> Place {
        let binary = home.join("finetune");
        let script = "#!/bin/sh\necho x >> \"$(dirname $0)/calls\"\n\
                      if [ $1 = evaluate ]; then echo '{\"tasks\":{\"t\":{\"accuracy\":0.5,\"kind\":\"k\"}}}'; fi\n\
                      if [ $1 = fail ]; then echo 'no such thing' >&2; exit 1; fi\n";
        fs::write(&binary, script).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        Place {
            binary,
            data: home.join("data"),
            study: home.join("study"),
        }
    }

    fn calls(home: &Path) -> usize {
        fs::read_to_string(home.join("calls"))
            .unwrap_or_default()
            .lines()
            .count()
    }

    #[test]
    fn a_finished_cell_is_not_run_again_until_its_commands_change() {
        let home = tempfile::tempdir().unwrap();
        let place = place(home.path());
        let mut arm = Arm::new(
            "An arm",
            vec![Step::evaluate("after", "m", Some("{out}/a"), "suite.toml")],
        );
        let first = place.cell(&arm, 1).unwrap();
        assert_eq!(first["after.t.accuracy"], 0.5);
        assert!(first.len() == 2 && first["wall.minutes"] > 0.0);
        assert_eq!(place.cell(&arm, 1).unwrap(), first);
        assert_eq!(calls(home.path()), 1);
        place.cell(&arm, 2).unwrap();
        arm.steps.push(Step::run("merge --output {out}/m"));
        place.cell(&arm, 1).unwrap();
        assert_eq!(calls(home.path()), 4);
    }

    #[test]
    fn numbers_are_called_by_their_keys() {
        let mut measures = Measures::new();
        let value = serde_json::json!({ "after": { "bytes": 7, "what": "x", "of": [1] }, "seconds": 0.5, "no": null });
        numbers("p", &value, &mut measures);
        let wanted = [("p.after.bytes", 7.0), ("p.seconds", 0.5)];
        assert_eq!(measures, wanted.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn a_cell_that_fails_says_why_and_is_not_finished() {
        let home = tempfile::tempdir().unwrap();
        let place = place(home.path());
        let arm = Arm::new("b", vec![Step::run("fail")]);
        let error = format!("{:#}", place.cell(&arm, 0).unwrap_err());
        assert!(error.contains("no such thing"), "{error}");
        assert!(place.cell(&arm, 0).is_err());
    }

    #[test]
    fn a_run_is_measured_by_its_last_tenth_and_its_peak() {
        let lines: Vec<String> = (1..=20)
            .map(|step| {
                format!("{{\"step\":{step},\"loss\":{step}.0,\"tokens_per_second\":{step}.0,\"peak_memory_bytes\":7,\"seconds\":{step}}}")
            })
            .collect();
        let lines = lines
            .into_iter()
            .chain(["{\"step\":20,\"eval/loss\":1.0,\"peak_memory_bytes\":9}".to_owned()]);
        let measures = of_training("train", &lines.collect::<Vec<_>>().join("\n")).unwrap();
        let wanted = [
            ("loss", 19.5),
            ("tokens_per_second", 11.0),
            ("minutes", 20.0 / 60.0),
            ("peak_memory", 7.0),
        ];
        for (name, value) in wanted {
            assert!((measures[&format!("train.{name}")] - value).abs() < 1e-12, "{name}");
        }
        assert!(of_training("train", "").is_err());
    }

    #[test]
    fn answers_are_measured_as_means_over_the_questions() {
        let lines = "{\"distinct_2\":0.5,\"copied_2\":{\"a\":0.2,\"b\":0.6},\"tokens\":10,\"failures\":[]}\n\
                     {\"distinct_2\":1.0,\"copied_2\":{},\"tokens\":30,\"failures\":[{\"agent\":\"x\"}]}\n";
        let measures = of_answers("asked", lines).unwrap();
        for (name, value) in [
            ("distinct_2", 0.75),
            ("copied_2", 0.3),
            ("tokens", 20.0),
            ("failures", 0.5),
        ] {
            assert!((measures[&format!("asked.{name}")] - value).abs() < 1e-12, "{name}");
        }
        assert!(of_answers("asked", "").is_err());
    }
}
