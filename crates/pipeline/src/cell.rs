//! One cell: an arm with a seed, run by the built command in a folder of its own.

use crate::measures::{numbers, of_answers, of_report, of_training};
use crate::results::Measures;
use crate::study::{Arm, Step};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
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
    /// Where commands are run: relative paths in recipes begin here.
    pub(crate) folder: PathBuf,
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
        let text = serde_json::to_string_pretty(&Finished {
            fingerprint,
            measures: measures.clone(),
        })?;
        staging::write_file(&finished, text.as_bytes())?;
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
                run(&mut command).with_context(|| said(folder, name))?;
                let metrics = output.join("metrics.jsonl");
                let text = fs::read_to_string(&metrics).with_context(|| format!("`{}`", metrics.display()))?;
                measures.extend(of_training(name, &text)?);
            }
            Step::Run { arguments } => {
                let name = arguments.first().map_or("command", String::as_str);
                let mut command = self.command(folder, name)?;
                command.args(arguments.iter().map(|argument| fill(argument)));
                run(command.stdout(Stdio::null())).with_context(|| said(folder, name))?;
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
                    .with_context(|| format!("cannot run `{}`", shown(&command)))?;
                ensure!(
                    output.status.success(),
                    "`{}` failed ({})\n{}",
                    shown(&command),
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
                    .with_context(|| format!("cannot run `{}`", shown(&command)))?;
                ensure!(
                    output.status.success(),
                    "`{}` failed ({})\n{}",
                    shown(&command),
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
        command.current_dir(&self.folder).stderr(file).stdin(Stdio::null());
        Ok(command)
    }

    fn fill(&self, text: &str, folder: &Path, seed: u64) -> String {
        text.replace("{out}", &folder.to_string_lossy())
            .replace("{study}", &self.study.to_string_lossy())
            .replace("{data}", &self.data.to_string_lossy())
            .replace("{seed}", &seed.to_string())
    }
}

/// Runs a command; fails if it does.
fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed ({status})");
    Ok(())
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let arguments = command
        .get_args()
        .map(|argument| format!(" {}", argument.to_string_lossy()));
    program.to_string_lossy().into_owned() + &arguments.collect::<String>()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_goes_unless_another_arm_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let place = Place {
            binary: PathBuf::new(),
            data: PathBuf::new(),
            folder: PathBuf::new(),
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
            folder: home.to_owned(),
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
    fn a_cell_that_fails_says_why_and_is_not_finished() {
        let home = tempfile::tempdir().unwrap();
        let place = place(home.path());
        let arm = Arm::new("b", vec![Step::run("fail")]);
        let error = format!("{:#}", place.cell(&arm, 0).unwrap_err());
        assert!(error.contains("no such thing"), "{error}");
        assert!(place.cell(&arm, 0).is_err());
    }
}
