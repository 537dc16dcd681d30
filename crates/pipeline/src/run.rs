//! A file's commands, run where they are not finished, and its report.
//!
//! A finished cell (a stage, or an arm with a seed) is kept, and not run again unless its commands, or those it builds on,
//! have changed.

use crate::cell::{self, Place};
use crate::read::Source;
use crate::results::Results;
use crate::stages::Pipeline;
use crate::study::Study;
use crate::{house, page, report, rows, study_file};
use anyhow::{Context, Result, ensure};
use fetch::{Cache, Tools, Wheels, write_if_changed};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What is run, and with what.
#[derive(Debug)]
pub struct Job<'a> {
    /// A file's path, or one of the house's own names.
    pub file: &'a str,
    /// The `finetune` that runs every command.
    pub binary: PathBuf,
    /// Where what is fetched lies.
    pub store: &'a Cache,
    /// Finds what fetching needs.
    pub tools: &'a Tools,
    /// The folder of the cells; none: `runs/pipeline/NAME`, of a study `runs/reproduce/NAME`.
    pub output: Option<&'a Path>,
    /// Where the page goes besides.
    pub page: Option<&'a Path>,
    /// How many seeds each arm of a study is run with; none: 3. A pipeline names its seed itself.
    pub seeds: Option<u64>,
    /// Four times a study's rows and steps.
    pub full: bool,
    /// Run every cell again.
    pub again: bool,
    /// The command as it was typed, for the page.
    pub command: String,
    /// Where a line for the person who waits goes.
    pub note: fetch::Note,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The table, as Markdown, and below it the verdicts.
    pub table: String,
    /// Where the page lies.
    pub page: PathBuf,
}

/// Runs what is not finished, and writes the page.
pub fn run(job: &Job) -> Result<Outcome> {
    let found = house::find(job.file)?;
    let source = Source {
        file: &found.file,
        text: &found.text,
    };
    if study_file::is_study(&found.text) {
        let scale = if job.full { 4 } else { 1 };
        let study = study_file::read(&found.name, source, scale)?;
        return job.study(&study, &found.beside, scale);
    }
    let pipeline = Pipeline::read(source)?;
    ensure!(
        !job.full && job.seeds.is_none(),
        "`{}`: `--full` and `--seeds` are for studies (files with `[[arm]]`), found a pipeline (with `[[stage]]`)",
        found.file
    );
    job.pipeline(&pipeline, &found.name, &found.beside)
}

impl Job<'_> {
    fn place(&self, fetched: &[String], rows_of: Option<usize>, beside: &Path, default: &Path) -> Result<Place> {
        let folder = std::env::current_dir().context("the working directory")?;
        let mut fetched = fetched.to_vec();
        if rows_of.is_some() {
            fetched.extend(rows::NEEDED.map(str::to_owned));
        }
        if !fetched.is_empty() {
            fetch::fetch(self.store, self.tools, &fetched, Wheels::Delete)?;
        }
        let data = match rows_of {
            Some(scale) => rows::prepare(self.store, scale)?,
            None => beside.to_owned(),
        };
        let study = folder.join(self.output.unwrap_or(default));
        if self.again && study.exists() {
            fs::remove_dir_all(&study).with_context(|| format!("cannot remove `{}`", study.display()))?;
        }
        Ok(Place {
            binary: self.binary.clone(),
            data,
            folder,
            study,
        })
    }

    fn pipeline(&self, pipeline: &Pipeline, name: &str, beside: &Path) -> Result<Outcome> {
        let rows_of = pipeline.rows_of_studies.then_some(1);
        let place = self.place(&pipeline.fetch, rows_of, beside, &Path::new("runs/pipeline").join(name))?;
        let bar = bar(pipeline.stage.len(), "{msg:<40} {wide_bar} {pos}/{len}, {elapsed}");
        let (mut before, mut found) = (pipeline.suite.clone(), Vec::new());
        for stage in &pipeline.stage {
            self.begin(&bar, stage.name());
            let steps = stage.steps(&pipeline.suite)?;
            let measures = place.steps(stage.name(), &steps, (pipeline.seed, &before));
            found.push(measures.with_context(|| format!("stage `{}` of `{}`", stage.name(), self.file))?);
            let _ = write!(before, "{steps:?}");
            bar.inc(1);
        }
        bar.finish_and_clear();
        let text = report::text(pipeline, &self.command, &found);
        let page = place.study.join("report.md");
        write_if_changed(&page, &text)?;
        if let Some(folder) = self.page {
            write_if_changed(&folder.join(format!("{name}.md")), &text)?;
        }
        Ok(Outcome {
            table: report::table(pipeline, &found),
            page,
        })
    }

    fn study(&self, study: &Study, beside: &Path, scale: usize) -> Result<Outcome> {
        let seeds = self.seeds.unwrap_or(3);
        let rows_of = study.rows_of_studies.then_some(scale);
        let place = self.place(
            &study.fetch,
            rows_of,
            beside,
            &Path::new("runs/reproduce").join(&study.name),
        )?;
        let results = self.cells(study, &place, seeds)?;
        let run = page::Run {
            command: self.command.clone(),
            seeds,
        };
        let mut written = page::write(study, &results, &run, &place.study)?;
        if let Some(folder) = self.page {
            written = page::write(study, &results, &run, folder)?;
        }
        let mut table = page::table(study, &results);
        for verdict in study.verdicts(&results)? {
            let _ = write!(table, "\n{verdict}");
        }
        Ok(Outcome { table, page: written })
    }

    /// Every cell, seed by seed, so that a study that is stopped has whole seeds.
    fn cells(&self, study: &Study, place: &Place, seeds: u64) -> Result<Results> {
        let cells = (0..seeds).flat_map(|seed| study.arms.iter().map(move |arm| (arm, seed)));
        let todo: Vec<_> = cells.filter(|(arm, seed)| *seed == 0 || arm.has_chance).collect();
        let bar = bar(todo.len(), "{msg:<40} {wide_bar} {pos}/{len}, {eta} left");
        let mut results = Results::default();
        for (arm, seed) in todo {
            let label = format!("{}, seed {seed}", arm.name);
            self.begin(&bar, &label);
            let mut measures = place.cell(arm, seed).with_context(|| label)?;
            study.derive(&mut measures)?;
            results.add(&arm.name, measures);
            if !cell::is_read_by(arm, &study.arms) {
                place.let_go(arm, seed)?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(results)
    }

    fn begin(&self, bar: &ProgressBar, label: &str) {
        bar.set_message(label.to_owned());
        if bar.is_hidden() {
            (self.note)(label);
        }
    }
}

fn bar(cells: usize, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(cells as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
