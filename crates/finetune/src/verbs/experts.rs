//! `finetune experts`: fewer experts in a mixture, those that a sample of text needs least.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use data::ReadConfig;
use models::Source;
use rewrite::experts::{By, Reduction, Sampled};
use serde_json::json;

use crate::args::MachineArgs;
use crate::failure::usage;
use crate::output;
use crate::ranges;

/// Arguments of `experts`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Layer by layer, on what the model itself gives each layer for the sample text: `nearest` tries every set of experts and\n\
                  keeps the one whose output is nearest to all experts' (for 4 of 8 that is 70 sets), `usage` keeps the most used,\n\
                  `random` any, and `merge` makes the most used take in those that the router treats alike. `merge` saves no bytes: the\n\
                  router keeps all its rows, and a merged expert is written again for each row that it answers for, as other programs\n\
                  read mixtures. The other three write a smaller model. Computed and written in the model's own dtype, or in that of --dtype.\n\n\
                  With `--relevant` nothing is written: the experts that a task's rows go to are named, for a recipe that trains only\n\
                  them (expert-specialised fine-tuning).\n\n\
                  Example:\n  finetune experts --model smollm2-8x --keep 6 --by nearest --data sample.jsonl --output smollm2-6x\n  \
                  finetune experts --model smollm2-8x --relevant 0.2 --data task.jsonl"
)]
pub struct Args {
    /// A mixture of experts
    #[arg(long, value_name = "M")]
    model: String,
    /// How many experts stay in each layer
    #[arg(
        long,
        value_name = "N",
        required_unless_present = "relevant",
        conflicts_with = "relevant",
        value_parser = ranges::count(1)
    )]
    keep: Option<usize>,
    /// Write no model; print the experts that a task needs most: in each layer the smallest group of experts that receives
    /// the share P of the sample's tokens (above 0, at most 1; 0.1 to 0.2 are usual). They are printed as
    /// `unfrozen_parameters`, for a recipe that trains only them
    #[arg(
        long,
        value_name = "P",
        conflicts_with_all = ["output", "by"],
        value_parser = ranges::share_above_zero(),
        allow_negative_numbers = true
    )]
    relevant: Option<f64>,
    /// How the experts that stay are chosen
    #[arg(long, value_enum, value_name = "H", default_value = "nearest")]
    by: By,
    /// The sample: any file of rows
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The most tokens of the sample
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = ranges::count(1))]
    max_tokens: usize,
    /// The seed of `--by random`
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the model is written; a model that is there is not replaced
    #[arg(long, value_name = "DIR", required_unless_present = "relevant")]
    output: Option<PathBuf>,
    /// What was kept, as JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Runs the sample, decides, writes.
    pub fn run(self) -> Result<ExitCode> {
        let source = Source::open(&self.model, &output::events())?;
        let Some(experts) = source.dir().config().experts.clone() else {
            bail!(
                "`{}`: wanted a mixture of experts, found a dense model\nhint: `finetune upcycle` makes one",
                self.model
            );
        };
        if self.relevant.is_none() && !(1..=experts.num_experts as usize).contains(&self.keep()) {
            return Err(usage(format!(
                "`--keep`: wanted 1 to {}, found {}",
                experts.num_experts,
                self.keep()
            )));
        }
        let rows = models::datafile::read(&self.data, &ReadConfig::default(), &output::events())?;
        let machine = self.machine.keeping(source.dir().config().dtype).start()?;
        let sampled = Sampled::of(&source, machine, &rows, self.max_tokens)
            .with_context(|| format!("`{}`", self.data.display()))?;
        if let Some(share) = self.relevant {
            return self.tell_relevant(share, &sampled);
        }
        let reduction = Reduction {
            keep: self.keep(),
            by: self.by,
            seed: self.seed,
        };
        let output = self.output.clone().unwrap_or_default();
        let (layers, written) = sampled.reduce(reduction, &output)?;
        self.tell(&layers, sampled.tokens, written, &output)?;
        Ok(ExitCode::SUCCESS)
    }

    fn tell_relevant(&self, share: f64, sampled: &Sampled) -> Result<ExitCode> {
        let (layers, parameters) = sampled.relevant(share)?;
        if self.json {
            let told = json!({"sample_tokens": sampled.tokens, "layers": layers, "unfrozen_parameters": parameters});
            output::json(&told)?;
        } else {
            output::line("[[surgery]]\nkind = \"full\"\nunfrozen_parameters = [")?;
            parameters
                .iter()
                .try_for_each(|pattern| output::line(format!("  '{pattern}',")))?;
            output::line("]")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Experts that stay; 0 where none go.
    fn keep(&self) -> usize {
        self.keep.unwrap_or(0)
    }

    fn tell(&self, layers: &[serde_json::Value], tokens: usize, written: usize, output: &Path) -> Result<()> {
        if self.json {
            output::json(&json!({
                "output": output, "keep": self.keep(), "experts_written": written, "sample_tokens": tokens, "layers": layers,
            }))?;
        }
        let what = match self.by {
            By::Merge => format!(
                "{} different experts in each of {} layers, written as {written} for the router's {written} rows: the model is as large as before",
                self.keep(),
                layers.len()
            ),
            _ => format!("{written} experts in each of {} layers", layers.len()),
        };
        output::note(format!(
            "{what}; decided on {tokens} tokens; written to `{}`",
            output.display()
        ));
        Ok(())
    }
}
