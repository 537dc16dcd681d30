//! The fine-tuning command: verbs, flags, and the terminal.
//!
//! A verb is a file of [`verbs`]: it reads its flags, has the crates below do the work, and shows what they return and
//! tell. Runs and loaded models are the crate `session`'s, recipes and the registry of methods the crate `methods`'.

pub mod args;
pub mod cli;
pub mod failure;
pub mod output;
pub mod ranges;
pub mod verbs;

use std::process::ExitCode;

/// Runs the command line of this process. Exit code 0: done, 1: failed, 2: wrong usage.
pub fn run() -> ExitCode {
    // clap prints help and usage errors itself, and leaves with 0 and 2.
    let cli = cli::Cli::of_arguments();
    let filter = tracing_subscriber::EnvFilter::try_from_env("FINETUNE_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    match cli.verb.run() {
        Ok(code) => code,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            failure::report(&error);
            failure::code(&error)
        }
    }
}
