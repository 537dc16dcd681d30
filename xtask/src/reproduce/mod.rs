//! `cargo xtask reproduce NAME`: a paper's claim in miniature on a real model, as a table, a plot and a verdict.
//!
//! A study is data: arms, each a list of `finetune` commands, run once a seed. A finished cell (arm and seed) is kept under
//! `runs/reproduce` and not run again, so that a study goes on where it was stopped; a cell whose commands have changed is.

mod alignment;
pub(crate) mod cell;
mod continuations;
pub(crate) mod data;
pub(crate) mod document;
mod factbook;
mod measures;
mod plot;
mod questions;
pub(crate) mod results;
mod studies;
pub(crate) mod study;

use crate::libtorch;
use crate::place::{Cache, checkout};
use anyhow::{Context, Result, bail};
use cell::Place;
use fetch::Tools;
use fetch::Wheels;
use indicatif::{ProgressBar, ProgressStyle};
use results::Results;
use std::fs;
use std::time::Instant;
use study::Study;

/// Arguments of `reproduce`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which claim; `--list` shows them.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Print what there is.
    #[arg(long)]
    list: bool,
    /// Four times the rows and steps: hours instead of minutes.
    #[arg(long)]
    full: bool,
    /// How many seeds; each arm is run once a seed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run every cell again.
    #[arg(long)]
    again: bool,
}

/// Runs what is missing of a study and writes `docs/reproduce/NAME.md` and its picture.
pub(crate) fn run(cache: &Cache, tools: &Tools, arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for study in studies::all(1) {
            println!("{:<10} {}", study.name, study.title);
        }
        return Ok(());
    }
    let scale = if arguments.full { 4 } else { 1 };
    let wanted = arguments.name.as_deref().unwrap_or_default();
    let mut all = studies::all(scale);
    let Some(idx) = all.iter().position(|study| study.name == wanted) else {
        let names: Vec<&str> = all.iter().map(|study| study.name).collect();
        bail!("no study is called `{wanted}`\nhint: there are {}", names.join(", "));
    };
    let study = all.swap_remove(idx);
    libtorch::setup(cache, tools, Wheels::Delete)?;
    let names: Vec<String> = data::NEEDED.iter().map(|&name| name.to_owned()).collect();
    fetch::fetch(cache, tools, &names, Wheels::Delete)?;
    let place = Place {
        binary: libtorch::build_release()?,
        data: data::prepare(cache, scale)?,
        study: checkout().join("runs/reproduce").join(study.name),
    };
    if arguments.again && place.study.exists() {
        fs::remove_dir_all(&place.study).with_context(|| format!("cannot remove `{}`", place.study.display()))?;
    }
    let results = cells(&study, &place, arguments.seeds)?;
    let page = document::write(&study, &results, arguments.seeds, arguments.full)?;
    println!("{}", document::table(&study, &results));
    for verdict in (study.verdicts)(&results) {
        println!("{verdict}");
    }
    println!("\nwritten: {}", page.display());
    Ok(())
}

/// Every cell, seed by seed, so that a study that is stopped has whole seeds.
fn cells(study: &Study, place: &Place, seeds: u64) -> Result<Results> {
    let mut todo = Vec::new();
    for seed in 0..seeds {
        todo.extend(
            study
                .arms
                .iter()
                .filter(|arm| seed == 0 || arm.has_chance)
                .map(|arm| (arm, seed)),
        );
    }
    let style = ProgressStyle::with_template("{msg:<40} {wide_bar} {pos}/{len}, {eta} left");
    let bar = ProgressBar::new(todo.len() as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let begun = Instant::now();
    let mut results = Results::default();
    for (arm, seed) in todo {
        let label = format!("{}, seed {seed}", arm.name);
        bar.set_message(label.clone());
        if bar.is_hidden() {
            eprintln!("{label} ({:.0} s since the start)", begun.elapsed().as_secs_f64());
        }
        let measures = place.cell(arm, seed).with_context(|| label)?;
        results.add(&arm.name, measures);
        if !cell::is_read_by(arm, &study.arms) {
            place.let_go(arm, seed)?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(results)
}
