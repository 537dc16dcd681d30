//! A training program, watched from outside: when each step was over, and how much memory the process ever held.

use super::Said;
use crate::cargo;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

/// Where a program says that a step is over: one JSON object a line, with `step`.
#[derive(Debug)]
pub(super) enum Steps {
    Output,
    File(PathBuf),
}

/// What was seen of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// Seconds from the command until each step was over.
    pub(super) ends: Vec<f64>,
    /// Tokens that were trained on until then, as the program counts them.
    pub(super) tokens: Vec<u64>,
    /// The process's largest resident size, in bytes.
    pub(super) peak_bytes: u64,
}

/// How often is looked.
const TICK: Duration = Duration::from_millis(5);

/// Runs the command to its end.
pub(super) fn watch(mut command: Command, steps: &Steps) -> Result<Measured> {
    let shown = cargo::shown(&command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run `{shown}`"))?;
    let output = lines(&mut child)?;
    let errors = drained(&mut child)?;
    let mut seen = Measured::default();
    let mut read = 0;
    let status = loop {
        let over = child.try_wait().with_context(|| format!("`{shown}`"))?;
        seen.peak_bytes = seen.peak_bytes.max(high_water(child.id()));
        let now = begun.elapsed().as_secs_f64();
        while let Ok((at, line)) = output.try_recv() {
            if matches!(steps, Steps::Output) {
                note(&mut seen, &line, at.duration_since(begun).as_secs_f64());
            }
        }
        if let Steps::File(path) = steps {
            let text = fs::read_to_string(path).unwrap_or_default();
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            for line in text.get(read..whole).unwrap_or_default().lines() {
                note(&mut seen, line, now);
            }
            read = whole;
        }
        match (over, output.try_recv()) {
            (Some(status), Err(TryRecvError::Disconnected)) => break status,
            (_, Ok((at, line))) if matches!(steps, Steps::Output) => {
                note(&mut seen, &line, at.duration_since(begun).as_secs_f64());
            }
            _ => thread::sleep(TICK),
        }
    };
    if !status.success() || seen.ends.is_empty() {
        let said = errors.join().unwrap_or_default();
        let said: Vec<&str> = said.lines().rev().take(6).collect();
        let said: Vec<&str> = said.into_iter().rev().collect();
        bail!(
            "`{shown}` ended with {status} after {} steps:\n  {}",
            seen.ends.len(),
            said.join("\n  ")
        );
    }
    Ok(seen)
}

/// Takes a line into account if it tells of a step not told of before.
fn note(seen: &mut Measured, line: &str, at: f64) {
    if let Ok(said) = serde_json::from_str::<Said>(line)
        && said.step as usize == seen.ends.len() + 1
    {
        seen.ends.push(at);
        seen.tokens.push(said.tokens.unwrap_or_default());
    }
}

fn lines(child: &mut Child) -> Result<Receiver<(Instant, String)>> {
    let output = child.stdout.take().context("no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

fn drained(child: &mut Child) -> Result<thread::JoinHandle<String>> {
    let mut errors = child.stderr.take().context("no error output")?;
    Ok(thread::spawn(move || {
        let mut text = Vec::new();
        let _ = errors.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }))
}

/// `VmHWM` of a process, in bytes; 0 when it is gone.
fn high_water(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn steps_said_on_the_output_are_timed_from_the_command() {
        let script = "echo loading; for i in 1 2 3; do sleep 0.1; echo '{\"step\":'$i',\"tokens\":'$i'000}'; done";
        let seen = watch(shell(script), &Steps::Output).unwrap();
        assert_eq!(seen.tokens, [1000, 2000, 3000]);
        assert!(
            seen.ends[0] >= 0.1 && seen.ends[2] >= 0.3 && seen.peak_bytes > 100_000,
            "{seen:?}"
        );
    }

    #[test]
    fn steps_said_in_a_file_are_seen_while_it_grows() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("metrics.jsonl");
        let line = "{\"step\":%d,\"loss\":1.5,\"tokens\":7}\\n";
        let script = format!(
            "sleep 0.1; printf '{line}' 1 > {0}; sleep 0.2; printf '{line}' 2 >> {0}; sleep 0.05",
            path.display()
        );
        let seen = watch(shell(&script), &Steps::File(path)).unwrap();
        assert_eq!(seen.tokens, [7, 7]);
        assert!(seen.ends[1] - seen.ends[0] > 0.15, "{seen:?}");
    }

    #[test]
    fn a_program_that_fails_is_reported_with_its_last_words() {
        let error = watch(shell("echo 'no such model' >&2; exit 3"), &Steps::Output)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no such model") && error.contains("after 0 steps"),
            "{error}"
        );
    }

    #[test]
    fn a_step_counts_once() {
        let mut seen = Measured::default();
        for (line, at) in [
            ("{\"step\":1}", 1.0),
            ("{\"step\":1,\"eval/loss\":2}", 1.5),
            ("words", 1.7),
            ("{\"step\":2}", 2.0),
        ] {
            note(&mut seen, line, at);
        }
        assert_eq!(seen.ends, [1.0, 2.0]);
    }
}
