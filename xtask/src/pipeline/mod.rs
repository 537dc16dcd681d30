//! `cargo xtask pipeline NAME`: stages of `finetune` commands, one on the other, with one report.
//!
//! A pipeline is a TOML file ([`file`]). A finished stage is kept under `runs/pipeline/NAME` and not run again unless it,
//! or one before it, has changed.

mod file;
mod report;

use crate::libtorch;
use crate::place::{Cache, checkout};
use crate::reproduce::cell::Place;
use crate::reproduce::data;
use anyhow::{Context, Result, bail};
use fetch::Tools;
use fetch::Wheels;
use file::Pipeline;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Arguments of `pipeline`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The name of a file in `pipelines/`, or any such file's path.
    name: String,
    /// Run every stage again.
    #[arg(long)]
    again: bool,
}

/// Runs the stages that are not finished, and writes the report.
pub(crate) fn run(cache: &Cache, tools: &Tools, arguments: &Arguments) -> Result<()> {
    let path = find(&arguments.name)?;
    let pipeline = Pipeline::read(&path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    libtorch::setup(cache, tools, Wheels::Delete)?;
    fetch::fetch(cache, tools, &pipeline.fetch, Wheels::Delete)?;
    let data = if pipeline.rows_of_studies {
        let needed: Vec<String> = data::NEEDED.iter().map(|&name| name.to_owned()).collect();
        fetch::fetch(cache, tools, &needed, Wheels::Delete)?;
        data::prepare(cache, 1)?
    } else {
        path.parent().unwrap_or(Path::new("")).to_owned()
    };
    let place = Place {
        binary: libtorch::build_release()?,
        data,
        study: checkout().join("runs/pipeline").join(&name),
    };
    if arguments.again && place.study.exists() {
        fs::remove_dir_all(&place.study).with_context(|| format!("cannot remove `{}`", place.study.display()))?;
    }
    let style = ProgressStyle::with_template("{msg:<40} {wide_bar} {pos}/{len}, {elapsed}");
    let bar = ProgressBar::new(pipeline.stage.len() as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (mut before, mut found) = (pipeline.suite.clone(), Vec::new());
    for stage in &pipeline.stage {
        bar.set_message(stage.name.clone());
        if bar.is_hidden() {
            eprintln!("{}", stage.name);
        }
        let steps = stage.steps(&pipeline.suite)?;
        let measures = place.steps(&stage.name, &steps, (pipeline.seed, &before));
        found.push(measures.with_context(|| format!("stage `{}` of `{}`", stage.name, path.display()))?);
        let _ = write!(before, "{steps:?}");
        bar.inc(1);
    }
    bar.finish_and_clear();
    let page = report::write(&pipeline, &name, &found, &place.study)?;
    println!("{}", report::table(&pipeline, &found));
    println!("written: {}", page.display());
    Ok(())
}

/// A path, or a name among the house's own.
fn find(name: &str) -> Result<PathBuf> {
    let own = checkout().join("pipelines");
    let named = own.join(format!("{name}.toml"));
    if named.is_file() {
        return Ok(named);
    }
    let path = PathBuf::from(name);
    if path.is_file() {
        return std::path::absolute(&path).with_context(|| format!("`{name}`"));
    }
    let mut there: Vec<String> = fs::read_dir(&own)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    there.sort();
    bail!(
        "`{name}`: wanted a pipeline's file, or the name of one in `pipelines/`, found neither\nhint: there is {}",
        there.join(", ")
    )
}
