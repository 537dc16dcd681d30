//! `finetune pipeline`: the stages of a pipeline, or the arms of a study, with one report.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use fetch::{Cache, Tools};
use pipeline::Job;

use crate::output;

/// Arguments of `pipeline`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A pipeline is a TOML file of stages, each built on those before it; a study is one of arms, run with several seeds \
                  and held against a claim. What is finished is kept, and not run again unless its commands change.\n\n\
                  Example:\n  finetune pipeline studies/dora.toml --seeds 1"
)]
pub struct Args {
    /// The file, or the name of a pipeline or study that is built in
    #[arg(value_name = "FILE|NAME", required_unless_present = "list")]
    file: Option<String>,
    /// List the names that are built in
    #[arg(long)]
    list: bool,
    /// The folder of what is made [default: runs/pipeline/NAME; of a study, runs/reproduce/NAME]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write the page to this folder, too
    #[arg(long, value_name = "DIR")]
    page: Option<PathBuf>,
    /// Seeds of a study; each arm is run once a seed [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Four times the rows and steps of a study
    #[arg(long)]
    full: bool,
    /// Run everything again
    #[arg(long)]
    again: bool,
}

impl Args {
    /// Runs what is not finished, and prints the table.
    pub fn run(self) -> Result<ExitCode> {
        let file = match &self.file {
            Some(file) if !self.list => file,
            _ => {
                for (name, title) in pipeline::names() {
                    output::line(format!("{name:<10} {title}"))?;
                }
                return Ok(ExitCode::SUCCESS);
            }
        };
        let note: fetch::Note = |line| output::note(line);
        let outcome = pipeline::run(&Job {
            file,
            binary: std::env::current_exe().context("the path of this program")?,
            store: &Cache::from_env(note)?,
            tools: &Tools::from_env(),
            output: self.output.as_deref(),
            page: self.page.as_deref(),
            seeds: self.seeds,
            full: self.full,
            again: self.again,
            command: self.typed(file),
            note,
        })?;
        output::line(&outcome.table)?;
        output::note(format!("written: {}", outcome.page.display()));
        Ok(ExitCode::SUCCESS)
    }

    /// The command that does the same again, for the page.
    fn typed(&self, file: &str) -> String {
        let seeds = self.seeds.map_or(String::new(), |seeds| format!(" --seeds {seeds}"));
        let full = if self.full { " --full" } else { "" };
        format!("finetune pipeline {file}{full}{seeds}")
    }
}
