//! `test`, `tidy` and `ci`: what must hold before a change is taken in.

use crate::download::Wheels;
use crate::place::Cache;
use crate::tools::Tools;
use crate::{cargo, fetch, libtorch, tidy};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// What some tests read. Those tests skip themselves where it is not to be had.
const WANTED: [&str; 4] = ["glassllm", "smollm2-135m-instruct", "sarcasm", "perplexity-text"];

/// Sums over the test binaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// Adds a line `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines count nothing.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result:") else {
            return;
        };
        let words: Vec<&str> = rest.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

/// Runs every test of the workspace, and `tidy`; the last line is the sum.
pub(crate) fn test(cache: &Cache, tools: &Tools) -> Result<()> {
    libtorch::setup(cache, tools, Wheels::Delete)?;
    for name in WANTED {
        if let Err(error) = fetch::fetch(cache, tools, &[name.to_owned()], Wheels::Delete) {
            eprintln!("note: tests that need `{name}` are skipped: {error:#}");
        }
    }
    let mut tally = Tally::default();
    match tidy() {
        Ok(()) => tally.passed += 1,
        Err(error) => {
            eprintln!("{error:#}");
            tally.failed += 1;
        }
    }
    let mut command = cargo::command();
    command
        .args(["test", "--workspace", "--quiet", "--no-fail-fast"])
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run `cargo test`")?;
    let output = child.stdout.take().context("the output of `cargo test`")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("the output of `cargo test`")?;
        println!("{line}");
        tally.add(&line);
    }
    let status = child.wait().context("`cargo test`")?;
    if !status.success() && tally.failed == 0 {
        // A crate that does not compile, or a test binary that died, leaves no line to count.
        tally.failed += 1;
    }
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    ensure!(tally.failed == 0, "`cargo xtask test` failed");
    Ok(())
}

/// Checks the house rules; the error lists every breach.
pub(crate) fn tidy() -> Result<()> {
    let problems = tidy::problems()?;
    if !problems.is_empty() {
        bail!("tidy found {}:\n  {}", problems.len(), problems.join("\n  "));
    }
    eprintln!("tidy: nothing found");
    Ok(())
}

/// Formatting, lints, house rules, tests.
pub(crate) fn ci(cache: &Cache, tools: &Tools) -> Result<()> {
    cargo::run(cargo::command().args(["fmt", "--all", "--check"]))?;
    tidy()?;
    libtorch::setup(cache, tools, Wheels::Delete)?;
    cargo::run(cargo::command().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    test(cache, tools)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_over_the_test_binaries() {
        let mut tally = Tally::default();
        let lines = [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.25s",
            "a test printed: 7 passed",
        ];
        for line in lines {
            tally.add(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 2,
                skipped: 1
            }
        );
    }
}
