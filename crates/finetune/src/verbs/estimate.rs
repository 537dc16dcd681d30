//! `finetune estimate`: what a run will take, and how wrong that was.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use estimate::Estimate;
use methods::recipe::Recipe;

use crate::args::MachineArgs;
use crate::output;

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
        let recipe = Recipe::read(&self.recipe, &self.set)?;
        let folder = recipe.output_dir().clone();
        let machine = self
            .machine
            .clone()
            .or(recipe.model.dtype, &recipe.model.device)
            .start()?;
        let found = Estimate::of(recipe, machine, !self.no_measure, &output::events())?;
        if self.json {
            output::json(&found.as_json(machine))?;
            return Ok(ExitCode::SUCCESS);
        }
        let Estimate { memory, time, past } = found;
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
            output::line(format!("the run in `{}`", folder.display()))?;
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
