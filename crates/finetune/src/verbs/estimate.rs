//! `finetune estimate`: what a run will take, and how wrong that was.

mod memory;
mod past;
mod time;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use crate::machine::MachineArgs;
use crate::model::Source;
use crate::output;
use crate::recipe::Recipe;
use crate::training::rollouts;
use crate::training::sets::Sets;
use crate::training::steps::Steps;

/// Arguments of `estimate`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The data are tokenised (and cached) to count them; no weight is read. If the output folder holds the run,\n\
                  what it took is shown beside.\n\n\
                  Example:\n  finetune estimate recipes/sft-lora.toml"
)]
pub struct Args {
    /// The recipe, a TOML file
    recipe: PathBuf,
    /// Change the recipe; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Counts and measures.
    pub fn run(self) -> Result<ExitCode> {
        let recipe = Recipe::read(&self.recipe, &self.set)?;
        let machine = self.machine.or(recipe.model.dtype, &recipe.model.device).start()?;
        let source = Source::of(&recipe.model)?;
        recipe.fits(source.dir())?;
        let tokenizer = source.tokenizer()?;
        let sets = Sets::read(&recipe, &tokenizer)?;
        let work = match rollouts::extent(&recipe, &tokenizer)? {
            Some(extent) => time::Work::of_rollouts(&extent),
            None => time::Work::of(&sets, &Steps::training(&sets, &recipe, machine.device)?),
        };
        let mut model = memory::Model::of(source.dir().config(), &recipe, sets.labels.as_deref())?;
        let learnt = sets.train.iter().map(|set| set.report().trained_tokens).sum();
        model.added += memory::rows_of_memories(&recipe, source.dir().config(), learnt)?;
        let memory = memory::estimate(&model, &recipe, machine, work.longest);
        let time = time::estimate(&model, &recipe, machine, &work, memory.recomputed_share());
        let past = past::read(recipe.output_dir());
        if self.json {
            output::json(
                &json!({ "memory": memory.as_json(), "time": time.as_json(), "run": past.as_ref().map(past::Past::as_json) }),
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        output::line("memory")?;
        for (name, bytes) in memory.parts() {
            output::line(format!("  {name:<32} {:>10}", output::bytes(bytes)))?;
        }
        output::line(format!(
            "  {:<32} {:>10}",
            "peak, all together",
            output::bytes(memory.peak())
        ))?;
        if let Some(free) = train::free_memory(machine.device) {
            let verdict = if memory.peak() < free as f64 {
                "it fits"
            } else {
                "it does not fit"
            };
            output::line(format!(
                "  {:<32} {:>10}  {verdict}",
                "free now",
                output::bytes(free as f64)
            ))?;
        }
        output::line("time")?;
        for (name, value) in time.lines() {
            output::line(format!("  {name:<32} {value:>10}"))?;
        }
        if let Some(past) = past {
            output::line(format!("the run in `{}`", recipe.output_dir().display()))?;
            let off = |estimated: f64, found: f64| format!("{:+.0} %", 100.0 * (estimated / found - 1.0));
            if let Some(peak) = past.peak {
                output::line(format!(
                    "  {:<32} {:>10}  the estimate is off by {}",
                    "peak memory",
                    output::bytes(peak),
                    off(memory.peak(), peak)
                ))?;
            }
            let speed = past.tokens_per_second;
            output::line(format!(
                "  {:<32} {speed:>10.0}  the estimate is off by {}",
                "tokens a second",
                off(time.tokens_per_second, speed)
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Numbers by name.
fn object<'n>(numbers: impl Iterator<Item = (&'n str, f64)>) -> Value {
    Value::Object(
        numbers
            .map(|(name, number)| (name.replace(' ', "_"), json!(number)))
            .collect(),
    )
}
