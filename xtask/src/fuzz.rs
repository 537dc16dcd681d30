//! `fuzz`: the readers of outside bytes under libFuzzer and `AddressSanitizer`, target by target.

use crate::place::{Cache, checkout};
use crate::{cargo, libtorch};
use anyhow::{Context, Result, ensure};
use clap::Args;
use fetch::Tools;
use fetch::Wheels;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest input in bytes: small inputs reach as many branches, and more of them run.
const MAX_LENGTH: usize = 8192;

/// A campaign.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Targets, by file name in `fuzz/fuzz_targets`; all of them when none is named.
    targets: Vec<String>,
    /// Inputs for each target.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Seconds after which a target ends even if it has not had all its inputs.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// What one target did.
struct Outcome {
    name: String,
    inputs: u64,
    features: u64,
    took: Duration,
}

/// Runs the campaign and prints its table; the first fault ends it, with the input's path.
pub(crate) fn run(cache: &Cache, tools: &Tools, arguments: &Arguments) -> Result<()> {
    libtorch::setup(cache, tools, Wheels::Delete)?;
    let has_cargo_fuzz = cargo::command().args(["fuzz", "--version"]).output();
    ensure!(
        has_cargo_fuzz.is_ok_and(|output| output.status.success()),
        "`cargo fuzz` is not there\nhint: cargo install cargo-fuzz"
    );
    let folder = checkout().join("fuzz");
    let known = targets(&folder)?;
    for name in &arguments.targets {
        ensure!(
            known.contains(name),
            "no target `{name}`; wanted one of {}",
            known.join(", ")
        );
    }
    let chosen = if arguments.targets.is_empty() {
        &known
    } else {
        &arguments.targets
    };
    let mut outcomes = Vec::new();
    for name in chosen {
        outcomes.push(fuzz(cache, &folder, name, arguments)?);
    }
    println!("| target | inputs | branches and values reached | minutes |\n|---|---|---|---|");
    for Outcome {
        name,
        inputs,
        features,
        took,
    } in &outcomes
    {
        println!("| {name} | {inputs} | {features} | {:.1} |", took.as_secs_f64() / 60.0);
    }
    let all: u64 = outcomes.iter().map(|outcome| outcome.inputs).sum();
    println!("{all} inputs, no panic, no hang, no memory beyond the stated multiple");
    Ok(())
}

/// The names of the targets, sorted.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder.join("fuzz_targets")).context("`fuzz/fuzz_targets`")?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn fuzz(cache: &Cache, folder: &Path, name: &str, arguments: &Arguments) -> Result<Outcome> {
    // New inputs are found in a copy, so that the kept corpus changes only when somebody means it to.
    let found = cache.root().join("fuzz").join(name);
    fs::create_dir_all(&found).with_context(|| format!("`{}`", found.display()))?;
    let mut command = cargo::command();
    command
        .current_dir(checkout())
        // libFuzzer's instrumentation is an unstable option of the pinned toolchain.
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["fuzz", "run", "--release", name])
        .arg(&found)
        .arg(folder.join("corpus").join(name))
        .arg("--")
        .args([
            format!("-runs={}", arguments.runs),
            format!("-max_total_time={}", arguments.seconds),
        ])
        .args([
            format!("-max_len={MAX_LENGTH}"),
            "-timeout=20".into(),
            "-rss_limit_mb=4096".into(),
        ])
        .args(["-malloc_limit_mb=64", "-print_final_stats=1"]);
    // cargo-fuzz sets the compiler's flags itself, so the targets do not know where libtorch lies.
    if let Some(libraries) = libtorch::libraries() {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    if Path::new("/dev/shm").is_dir() {
        // Readers of files open one an input.
        command.env("TMPDIR", "/dev/shm");
    }
    let begin = Instant::now();
    let output = command
        .output()
        .with_context(|| format!("`{}`", cargo::shown(&command)))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{name}`: {}\n{}",
        output.status,
        text.lines()
            .rev()
            .take(60)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("\n")
    );
    Ok(Outcome {
        name: name.to_owned(),
        inputs: stat(&text, "stat::number_of_executed_units:").context("libFuzzer tells no number of inputs")?,
        features: features(&text).unwrap_or(0),
        took: begin.elapsed(),
    })
}

/// A number of libFuzzer's closing lines.
fn stat(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// The last `ft: N` of libFuzzer's log.
fn features(text: &str) -> Option<u64> {
    let line = text.lines().rev().find(|line| line.contains(" ft: "))?;
    line.split(" ft: ").nth(1)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_read_from_the_log() {
        let log = "#2\tINITED cov: 12 ft: 13 corp: 1/1b\n#9\tDONE   cov: 40 ft: 57 corp: 3/4b\n\
                   stat::number_of_executed_units: 1000\nstat::average_exec_per_sec:     50\n";
        assert_eq!(stat(log, "stat::number_of_executed_units:"), Some(1000));
        assert_eq!(features(log), Some(57));
    }

    #[test]
    fn every_target_has_a_corpus() {
        let folder = checkout().join("fuzz");
        let targets = targets(&folder).unwrap();
        assert!(targets.len() >= 8, "{targets:?}");
        for name in targets {
            let corpus = folder.join("corpus").join(&name);
            assert!(
                fs::read_dir(&corpus).is_ok_and(|mut files| files.next().is_some()),
                "{name}"
            );
        }
    }
}
