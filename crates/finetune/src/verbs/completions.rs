//! `finetune completions`: completions for a shell.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Where each shell looks for completions:\n  bash  ~/.local/share/bash-completion/completions/finetune\n  zsh   a file `_finetune` in a folder of $fpath\n  fish  ~/.config/fish/completions/finetune.fish\n\nExample:\n  finetune completions bash > ~/.local/share/bash-completion/completions/finetune"
)]
pub struct Args {
    /// The shell to complete for
    #[arg(value_enum)]
    shell: Shell,
}

impl Args {
    /// Prints the shell's script.
    pub fn run(self) -> Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "finetune", &mut script);
        output::piece(&String::from_utf8(script)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
