//! `test`, `tidy` and `ci`: what must hold before a change is taken in.

use crate::place::Cache;
use crate::{cargo, libtorch, others, tidy};
use anyhow::{Context, Result, bail, ensure};
use fetch::Tools;
use fetch::Wheels;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// What some tests read. Those tests skip themselves where it is not to be had.
const WANTED: [&str; 4] = ["glassllm", "smollm2-135m-instruct", "sarcasm", "perplexity-text"];

/// The file in which tests that cannot run here say why: `golden::skip!` appends to it.
const SKIPPED_TESTS: &str = "FINETUNE_SKIPPED_TESTS";

/// Sums over the test binaries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Why tests did not run, and which.
    skipped: BTreeMap<String, BTreeSet<String>>,
}

/// What a line of `cargo test` is to whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// One more test that passed: not worth a line.
    Passed,
    /// Anything else.
    Shown,
}

impl Tally {
    /// Adds a line `test NAME ... ok`, `... FAILED` or `... ignored, REASON`; other lines count nothing.
    fn add(&mut self, line: &str) -> Line {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else {
            return Line::Shown;
        };
        // `ok <1.234s>` where times are asked for.
        let word = result.split([' ', ',']).next().unwrap_or_default();
        match word {
            "ok" => {
                self.passed += 1;
                return Line::Passed;
            }
            "FAILED" => self.failed += 1,
            "ignored" => {
                let reason = result
                    .strip_prefix("ignored, ")
                    .unwrap_or("`#[ignore]` without a reason");
                self.skip(reason, name);
            }
            _ => {}
        }
        Line::Shown
    }

    fn skip(&mut self, reason: &str, name: &str) {
        self.skipped
            .entry(reason.to_owned())
            .or_default()
            .insert(name.to_owned());
    }

    /// Takes the tests that said so themselves out of those that passed. Lines `PACKAGE TAB TEST TAB REASON`.
    fn add_skipped(&mut self, lines: &str) {
        let mut seen = BTreeSet::new();
        for line in lines.lines() {
            let mut fields = line.splitn(3, '\t');
            let (Some(package), Some(test), Some(reason)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if seen.insert((package, test)) {
                self.skip(reason, &format!("{package} {test}"));
                self.passed = self.passed.saturating_sub(1);
            }
        }
    }

    fn num_skipped(&self) -> usize {
        self.skipped.values().map(BTreeSet::len).sum()
    }

    /// What was skipped by reason, then the sum as the last line.
    fn summary(&self) -> String {
        let mut text = String::new();
        for (reason, tests) in &self.skipped {
            let _ = writeln!(text, "skipped, {reason}:");
            for test in tests {
                let _ = writeln!(text, "  {test}");
            }
        }
        let num_skipped = self.num_skipped();
        text + &format!("{} passed, {} failed, {num_skipped} skipped", self.passed, self.failed)
    }
}

/// Runs every test of the workspace, `tidy`, the examples and what else whoever depends on a crate meets; the last line is the sum.
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
    let folder = cargo::metadata()?.target_directory;
    fs::create_dir_all(&folder).with_context(|| format!("`{}`", folder.display()))?;
    let skipped = folder.join("skipped-tests.tsv");
    fs::write(&skipped, "").with_context(|| format!("`{}`", skipped.display()))?;
    let mut command = cargo::command();
    command
        .args(["test", "--workspace", "--quiet", "--no-fail-fast"])
        // A name a test, so that what is ignored says why.
        .args(["--", "--format", "pretty"])
        .env(SKIPPED_TESTS, &skipped)
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run `cargo test`")?;
    let output = child.stdout.take().context("the output of `cargo test`")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("the output of `cargo test`")?;
        let line = String::from_utf8_lossy(&line);
        if tally.add(&line) == Line::Shown {
            println!("{line}");
        }
    }
    let status = child.wait().context("`cargo test`")?;
    if !status.success() && tally.failed == 0 {
        // A crate that does not compile, or a test binary that died, leaves no line to count.
        tally.failed += 1;
    }
    for (name, check) in others::checks()? {
        match check() {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                tally.failed += 1;
            }
        }
    }
    tally.add_skipped(&fs::read_to_string(&skipped).with_context(|| format!("`{}`", skipped.display()))?);
    println!("{}", tally.summary());
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
    fn results_are_summed_over_the_test_binaries_and_what_was_skipped_is_told_with_its_reason() {
        let mut tally = Tally::default();
        let lines = [
            ("running 3 tests", Line::Shown),
            ("test one::holds ... ok", Line::Passed),
            ("test one::breaks ... FAILED", Line::Shown),
            ("test crates/a/src/lib.rs - (line 3) ... ok", Line::Passed),
            ("test two::timed ... ok <0.123s>", Line::Passed),
            ("test two::waits ... ignored, a night of fuzzing", Line::Shown),
            ("test two::cuda ... ok", Line::Passed),
            ("test two::cuda_too ... ok", Line::Passed),
            // The sum of a binary, what a test printed, and the word at the start of a sentence.
            (
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
                Line::Shown,
            ),
            ("a test printed: 7 passed", Line::Shown),
            ("test two::slow has been running for over 60 seconds", Line::Shown),
        ];
        for (line, wanted) in lines {
            assert_eq!(tally.add(line), wanted, "{line}");
        }
        // A test that says so twice is skipped once; no line, no count.
        tally.add_skipped("b\ttwo::cuda\tneeds a GPU\nb\ttwo::cuda\tneeds a GPU\nb\ttwo::cuda_too\tneeds a GPU\n\n");
        assert_eq!((tally.passed, tally.failed, tally.num_skipped()), (3, 1, 3));
        assert_eq!(
            tally.summary(),
            "skipped, a night of fuzzing:\n  two::waits\nskipped, needs a GPU:\n  b two::cuda\n  b two::cuda_too\n\
             3 passed, 1 failed, 3 skipped"
        );
    }
}
