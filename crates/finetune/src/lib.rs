//! The fine-tuning command: verbs, recipes, and the glue between the crates.
//!
//! This is the only place that knows every method: [`methods`] lists them. A verb is a file of [`verbs`]; a recipe is read by
//! [`recipe`].

pub mod adapters;
pub mod agents;
pub mod bottleneck;
pub mod classifier;
pub mod cli;
pub mod convert;
pub mod datafile;
pub mod experts;
pub mod failure;
pub mod machine;
pub mod memories;
pub mod methods;
pub mod model;
pub mod output;
pub mod prompts;
pub mod provenance;
pub mod pruning;
pub mod quantised;
pub mod ranges;
pub mod rates;
pub mod recipe;
pub mod rewards;
pub mod training;
pub mod verbs;
pub mod zeros;

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
