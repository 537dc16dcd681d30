//! `finetune estimate`: what a run will take, and how wrong that was.

mod memory;
mod past;
mod rates;
mod time;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use crate::machine::{Machine, MachineArgs};
use crate::model::Source;
use crate::output;
use crate::recipe::Recipe;
use crate::training::rollouts;
use crate::training::sets::{self, Sets};
use crate::training::steps::Steps;

/// Arguments of `estimate`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The data are tokenised (and cached) to count them. Memory is counted from shapes; for the time, the model's first\n\
                  blocks are trained on the first rows for some seconds (--no-measure: the time is computed from the machine's\n\
                  matrix rate instead, and may be off by half). If the output folder holds the run, what it took is shown beside,\n\
                  and compared where that run computed in the same number format on the same kind of device.\n\n\
                  Example:\n  finetune estimate recipes/sft-lora.toml"
)]
pub struct Args {
    /// The recipe, a TOML file
    recipe: PathBuf,
    /// Change the recipe; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Compute the time from the machine's matrix rate instead of training the first blocks for a moment
    #[arg(long)]
    no_measure: bool,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Counts and measures.
    pub fn run(self) -> Result<ExitCode> {
        let mut recipe = Recipe::read(&self.recipe, &self.set)?;
        let machine = self
            .machine
            .clone()
            .or(recipe.model.dtype, &recipe.model.device)
            .start()?;
        let source = Source::of(&recipe.model, &output::events())?;
        recipe.fits(source.dir())?;
        let tokenizer = source.tokenizer()?;
        sets::within_positions(&mut recipe, &source);
        let sets = Sets::read(&recipe, &tokenizer, &output::events())?;
        let extent = rollouts::extent(&recipe, &tokenizer, source.events())?;
        let steps = match &extent {
            Some(_) => None,
            None => Some(Steps::training(&sets, &recipe, machine.device)?),
        };
        let work = match (&extent, &steps) {
            (Some(extent), _) => time::Work::of_rollouts(extent),
            (None, Some(steps)) => time::Work::of(&sets, steps, &recipe),
            (None, None) => anyhow::bail!("there is nothing to learn from"),
        };
        let learnt_tokens = sets.train.iter().map(|set| set.report().trained_tokens).sum();
        let model = memory::Model::of(source.dir().config(), &recipe, sets.labels.as_deref(), learnt_tokens)?;
        let memory = memory::estimate(&model, &recipe, machine, work.longest);
        let rates = self.rates(
            &recipe,
            &source,
            machine,
            (sets.labels.as_deref(), steps.as_ref(), work.replies),
            memory.recomputed_share(),
        );
        let time = time::estimate(&model, &recipe, machine, &work, memory.recomputed_share(), rates);
        let past = past::read(recipe.output_dir());
        if self.json {
            output::json(
                &json!({ "memory": memory.as_json(), "time": time.as_json(), "run": past.as_ref().map(|past| past.as_json(machine)) }),
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
            let differs = past.differs(machine);
            let off = |estimated: f64, found: f64| match &differs {
                Some(why) => format!("not compared: {why}"),
                None => format!("the estimate is off by {:+.0} %", 100.0 * (estimated / found - 1.0)),
            };
            if let Some(peak) = past.peak {
                let shown = output::bytes(peak);
                output::line(format!(
                    "  {:<32} {shown:>10}  {}",
                    "peak memory",
                    off(memory.peak(), peak)
                ))?;
            }
            let speed = past.tokens_per_second;
            let compared = off(time.tokens_per_second, speed);
            output::line(format!("  {:<32} {speed:>10.0}  {compared}", "tokens a second"))?;
            if let (Some(_), Some(dtype)) = (&differs, past.dtype()) {
                output::note(format!(
                    "hint: `finetune estimate … --dtype {dtype}` estimates what that run did"
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Args {
    /// What parts of a step cost; none, with a message, where they cannot be measured.
    fn rates(
        &self,
        recipe: &Recipe,
        source: &Source,
        machine: Machine,
        (labels, steps, replies): (Option<&[String]>, Option<&Steps>, Option<rates::Replies>),
        recomputed: f64,
    ) -> Option<rates::Rates> {
        if self.no_measure {
            return None;
        }
        let found = rates::measure(recipe, source, machine, labels, steps, replies, recomputed);
        found
            .inspect_err(|error| {
                output::note(format!(
                    "the time is computed from the machine's matrix rate, and may be off by half: nothing could be measured ({error:#})"
                ));
            })
            .ok()
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
