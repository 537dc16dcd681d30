//! `cargo xtask demo`: a chat model learns to tell sarcastic headlines, from nothing to the table of before and after.

mod data;
mod finetune;
mod table;

use crate::libtorch;
use crate::place::{Cache, checkout};
use anyhow::Result;
use fetch::rows::TRAINED;
use fetch::{Tools, Wheels};
use finetune::Finetune;
use std::time::Instant;
use table::Outcome;

const MODEL: &str = "smollm2-135m-instruct";
const RECIPE: &str = "recipes/demo.toml";
const OUTPUT: &str = "runs/demo";

/// Seconds that the training shall take.
const TRAINING: f64 = 180.0;
/// The fewest headlines from which something is learnt.
const LEAST: usize = 320;

/// Fetches, builds, measures, trains, measures again, and prints what came of it.
pub(crate) fn run(cache: &Cache, tools: &Tools) -> Result<()> {
    let begun = Instant::now();
    libtorch::setup(cache, tools, Wheels::Delete)?;
    let names = [MODEL, "sarcasm", "perplexity-text"].map(str::to_owned);
    fetch::fetch(cache, tools, &names, Wheels::Delete)?;
    let data = data::for_the_demo(cache)?;
    eprintln!("building (a few minutes the first time, most of it libtorch's bindings)");
    let finetune = Finetune::at(libtorch::build_release()?);
    let ready = begun.elapsed();

    let recipe = checkout().join(RECIPE);
    let rows = share(finetune.estimate(&recipe)?);
    eprintln!("{}", choice(rows));

    let output = checkout().join(OUTPUT);
    let before = finetune.evaluate(MODEL, None, &data.suite)?;
    let answers_before = finetune.answers(MODEL, None, &data.questions)?;
    let training = Instant::now();
    let run = finetune.train(&recipe, rows, &output)?;
    let trained = training.elapsed();
    let after = finetune.evaluate(MODEL, Some(&output), &data.suite)?;
    let answers_after = finetune.answers(MODEL, Some(&output), &data.questions)?;

    let outcome = Outcome {
        before,
        after,
        answers_before,
        answers_after,
        run,
        rows,
        ready,
        trained,
        total: begun.elapsed(),
    };
    println!("{}", table::table(&outcome, &data, MODEL, OUTPUT));
    Ok(())
}

/// How many headlines train in about [`TRAINING`] seconds on a machine that needs `all` seconds for all of them.
fn share(all: f64) -> usize {
    if all <= TRAINING {
        return TRAINED;
    }
    let rows = (TRAINED as f64 * TRAINING / all) as usize;
    // Whole steps of the recipe's batch.
    (rows / 16 * 16).max(LEAST)
}

/// What the user is told of it.
fn choice(rows: usize) -> String {
    if rows == TRAINED {
        return format!("this machine trains on all {TRAINED} headlines within three minutes");
    }
    format!(
        "this machine would take longer than three minutes for all {TRAINED} headlines: training takes the first {rows} \
         (`finetune train {RECIPE}` takes all)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_takes_a_share_of_the_headlines_and_a_fast_one_all() {
        assert_eq!(share(60.0), TRAINED);
        assert_eq!(share(180.0), TRAINED);
        // Sixteen minutes for all of them.
        let rows = share(960.0);
        assert!(
            rows.is_multiple_of(16) && (TRAINED / 6..TRAINED / 5).contains(&rows),
            "{rows}"
        );
        assert_eq!(share(1e6), LEAST);
        assert!(choice(rows).contains(&format!("the first {rows}")), "{}", choice(rows));
    }
}
