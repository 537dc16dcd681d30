//! `finetune man`: manual pages, in roff.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::output;

/// Arguments of `man`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  finetune man train | man -l -\n  finetune man --output ~/.local/share/man/man1")]
pub struct Args {
    /// The verb to print the page of [default: the page of the whole command]
    verb: Option<String>,
    /// Write the pages of the command and of every verb into this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    output: Option<PathBuf>,
}

impl Args {
    /// Prints a page, or writes all of them.
    pub fn run(self) -> Result<ExitCode> {
        let mut command = Cli::command();
        if let Some(folder) = &self.output {
            fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
            clap_mangen::generate_to(command, folder)
                .with_context(|| format!("cannot write the manual pages into `{}`", folder.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        command.build();
        let page = match &self.verb {
            None => command,
            Some(verb) => command.find_subcommand(verb).cloned().with_context(|| {
                format!("`{verb}` is not a verb of finetune\nhint: `finetune --help` lists the verbs")
            })?,
        };
        let mut roff = Vec::new();
        Man::new(page).render(&mut roff)?;
        output::piece(&String::from_utf8(roff)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
