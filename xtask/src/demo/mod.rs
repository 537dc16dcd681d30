//! `cargo xtask demo`: a chat model learns to tell sarcastic headlines, from nothing to the table of before and after.

mod finetune;
mod table;

use crate::download::Wheels;
use crate::place::{Cache, checkout};
use crate::tools::Tools;
use crate::{fetch, libtorch, rows};
use anyhow::Result;
use finetune::Finetune;
use std::time::Instant;
use table::Outcome;

const MODEL: &str = "smollm2-135m-instruct";
const RECIPE: &str = "recipes/demo.toml";
const OUTPUT: &str = "runs/demo";

/// Fetches, builds, measures, trains, measures again, and prints what came of it.
pub(crate) fn run(cache: &Cache, tools: &Tools) -> Result<()> {
    let begun = Instant::now();
    libtorch::setup(cache, tools, Wheels::Delete)?;
    let names = [MODEL, "sarcasm", "perplexity-text"].map(str::to_owned);
    fetch::fetch(cache, tools, &names, Wheels::Delete)?;
    let data = rows::for_the_demo(cache)?;
    eprintln!("building (a few minutes the first time, most of it libtorch's bindings)");
    let finetune = Finetune::at(libtorch::build_release()?);
    let ready = begun.elapsed();

    let output = checkout().join(OUTPUT);
    let before = finetune.evaluate(MODEL, None, &data.suite)?;
    let answers_before = finetune.answers(MODEL, None, &data.questions)?;
    let training = Instant::now();
    let run = finetune.train(&checkout().join(RECIPE), &output)?;
    let trained = training.elapsed();
    let after = finetune.evaluate(MODEL, Some(&output), &data.suite)?;
    let answers_after = finetune.answers(MODEL, Some(&output), &data.questions)?;

    let outcome = Outcome {
        before,
        after,
        answers_before,
        answers_after,
        run,
        ready,
        trained,
        total: begun.elapsed(),
    };
    println!("{}", table::table(&outcome, &data, MODEL, OUTPUT));
    Ok(())
}
