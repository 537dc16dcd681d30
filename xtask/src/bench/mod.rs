//! `cargo xtask bench`: ours against Transformers + PEFT and TRL, in turns, same rows, same threads, same machine.
//!
//! Both sides are watched from outside with the same clock: a step is over when the program has said so, memory is the
//! kernel's own high-water mark (`VmHWM`) of the process.

mod methods;
mod table;
mod watch;

use crate::place::{Cache, checkout};
use crate::{cargo, libtorch, python};
use anyhow::{Context, Result, ensure};
use fetch::Tools;
use fetch::Wheels;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use table::{Rates, Side};
use watch::{Measured, Steps};

const MODEL: &str = "smollm2-135m-instruct";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Each kernel against the libtorch operators it replaces (criterion), instead of the comparison with Python.
    #[arg(long)]
    kernels: bool,
    /// A step of LoRA, `DoRA` and `QLoRA` beside each other, instead of the comparison with Python.
    #[arg(long, conflicts_with = "kernels")]
    methods: bool,
    /// Turns that ours and PEFT take.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Optimiser steps of a turn; the first few are warm-up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(5..))]
    steps: u32,
    /// Threads of either side; all cores when not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Leave out TRL's defaults, the slowest turn.
    #[arg(long)]
    without_trl: bool,
}

/// Builds, measures by turns (A B A B), prints the table.
pub(crate) fn run(cache: &Cache, tools: &Tools, arguments: &Arguments) -> Result<()> {
    libtorch::setup(cache, tools, Wheels::Delete)?;
    if arguments.kernels {
        return cargo::run(cargo::command().args(["bench", "--package", "benches"]));
    }
    let binary = libtorch::build_release()?;
    let python = python::environment(cache, tools)?;
    let data = prepare(cache, tools, &python)?;
    let threads = arguments
        .threads
        .map_or_else(std::thread::available_parallelism, |count| {
            count.try_into().map_err(|_| std::io::Error::other("--threads 0"))
        })?;
    let turns = Turns {
        binary,
        python,
        data,
        steps: arguments.steps,
        threads: threads.get(),
    };
    if arguments.methods {
        println!("{}", methods::compare(&turns, arguments.rounds)?);
        return Ok(());
    }

    let rates = turns.matmul()?;
    let (mut ours, mut peft) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}: ours", arguments.rounds);
        ours.push(turns.ours(&[])?);
        eprintln!("round {round} of {}: Transformers + PEFT", arguments.rounds);
        peft.push(turns.script("peft_step.py")?);
    }
    let mut sides = vec![
        Side {
            name: "ours",
            turns: ours,
        },
        Side {
            name: "Transformers + PEFT",
            turns: peft,
        },
    ];
    if !arguments.without_trl {
        eprintln!("TRL with its defaults");
        sides.push(Side {
            name: "TRL, defaults",
            turns: vec![turns.script("trl_defaults.py")?],
        });
    }
    println!("{}", table::table(&sides, &rates, turns.threads)?);
    Ok(())
}

struct Turns {
    binary: PathBuf,
    python: PathBuf,
    data: PathBuf,
    steps: u32,
    threads: usize,
}

impl Turns {
    /// Our command, with these settings over the recipe's.
    fn ours(&self, settings: &[&str]) -> Result<Measured> {
        let output = tempfile::tempdir()?;
        let mut command = Command::new(&self.binary);
        command
            .current_dir(checkout())
            .args(["train", "recipes/bench.toml", "--threads", &self.threads.to_string()]);
        // The recipe finds its rows in the cache, where `prepare` wrote them.
        let folder = toml::Value::String(output.path().join("run").to_string_lossy().into_owned());
        command.args(["--set", &format!("train.output_dir={folder}")]);
        command.args(["--set", &format!("train.max_steps={}", self.steps)]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        watch::watch(command, &Steps::File(output.path().join("run/metrics.jsonl")))
    }

    fn script(&self, name: &str) -> Result<Measured> {
        let mut command = Command::new(&self.python);
        command
            .arg(checkout().join("benches/peft").join(name))
            .arg("--data")
            .arg(&self.data);
        command.args([
            "--steps",
            &self.steps.to_string(),
            "--threads",
            &self.threads.to_string(),
        ]);
        command.env("OMP_NUM_THREADS", self.threads.to_string());
        watch::watch(command, &Steps::Output)
    }

    fn matmul(&self) -> Result<Rates> {
        let mut command = Command::new(&self.python);
        command
            .arg(checkout().join("benches/peft/matmul.py"))
            .args(["--threads", &self.threads.to_string()]);
        command.env("OMP_NUM_THREADS", self.threads.to_string());
        let output = command.output().context("cannot run matmul.py")?;
        ensure!(
            output.status.success(),
            "matmul.py failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout).context("the answer of matmul.py")
    }
}

/// The model and rows that every turn reads, made once.
fn prepare(cache: &Cache, tools: &Tools, python: &Path) -> Result<PathBuf> {
    let place = cache.data().join("bench");
    if place.join("complete").exists() {
        return Ok(place);
    }
    fetch::fetch(
        cache,
        tools,
        &[MODEL.to_owned(), "perplexity-text".to_owned()],
        Wheels::Delete,
    )?;
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove `{}`", place.display()))?;
    }
    fs::create_dir_all(&place).with_context(|| format!("cannot make `{}`", place.display()))?;
    let mut command = Command::new(python);
    command.arg(checkout().join("benches/peft/prepare.py"));
    command.arg("--gguf").arg(cache.models().join(MODEL).join("model.gguf"));
    command
        .arg("--text")
        .arg(cache.data().join("perplexity-text/openwebtext.jsonl"))
        .arg("--out")
        .arg(&place);
    cargo::run(&mut command)?;
    fs::write(place.join("complete"), "")?;
    Ok(place)
}

/// A line that a program says at the end of a step: `tokens` counts from the start of the run.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Said {
    step: u64,
    tokens: Option<u64>,
}
