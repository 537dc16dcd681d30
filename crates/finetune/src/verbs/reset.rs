//! `finetune reset`: a random half of a tuned model back to what it was; or the average of both.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use hft::{Granularity, Piece};
use methods::hft::pieces_of_config;
use models::Source;
use rewrite::reset::{Choice, Mixing};
use serde_json::json;

use crate::args::MachineArgs;
use crate::output;
use crate::ranges;

/// Arguments of `reset`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A random share of the tuned model's matrices gets the base's values again (Half-Reset): much of what the base\n\
                  knew returns, most of what was learnt stays. Embedding, output layer and last norm stay tuned unless the\n\
                  fraction is 1. --average writes the weighted mean of both models instead, which Half-Reset is usually compared with.\n\
                  One tensor is in memory at a time.\n\n\
                  Example:\n  finetune reset --model runs/full --base smollm2-135m-instruct --fraction 0.5 --output half"
)]
pub struct Args {
    /// The tuned model
    #[arg(long, value_name = "TUNED")]
    model: String,
    /// The model that it was tuned from
    #[arg(long, value_name = "M")]
    base: String,
    /// The share of the matrices that gets the base's values back: 0 writes the tuned model, 1 the base, bit for bit
    #[arg(long, value_name = "F", default_value_t = 0.5, value_parser = ranges::between(0.0, 1.0), allow_negative_numbers = true)]
    fraction: f64,
    /// Among which matrices the share is drawn: those of one kind over all layers (category), of one kind in one layer
    /// (stratified), of one layer (layer), or all of them (model)
    #[arg(long, value_name = "G", default_value = "category", value_parser = ["category", "stratified", "layer", "model"])]
    granularity: String,
    /// The seed of the draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Instead of resetting a share: write the weighted mean of both models, A times the base plus 1 - A times the tuned
    /// model, in every tensor
    #[arg(
        long,
        value_name = "A",
        conflicts_with_all = ["fraction", "granularity", "seed"],
        value_parser = ranges::between(0.0, 1.0),
        allow_negative_numbers = true
    )]
    average: Option<f64>,
    /// Where the model is written; a model that is there is not replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// What was done, as JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Writes the model tensor by tensor.
    pub fn run(self) -> Result<ExitCode> {
        let (tuned, base) = (
            Source::open(&self.model, &output::events())?,
            Source::open(&self.base, &output::events())?,
        );
        let device = self.machine.start()?.device;
        let pieces = pieces_of_config(tuned.dir().config());
        let choice = self.choice(&pieces)?;
        let mixing = Mixing {
            tuned: &tuned,
            base: &base,
            choice,
        };
        mixing.write(&self.output, &pieces, self.machine.written(device))?;
        self.tell(&mixing.choice, pieces.len())?;
        Ok(ExitCode::SUCCESS)
    }

    fn choice(&self, pieces: &[Piece]) -> Result<Choice> {
        if let Some(share) = self.average {
            return Ok(Choice::Average(share));
        }
        let granularity = match self.granularity.as_str() {
            "stratified" => Granularity::Stratified,
            "layer" => Granularity::Layer,
            "model" => Granularity::Model,
            _ => Granularity::Category,
        };
        let selection = hft::reset(pieces, granularity, self.fraction, self.seed)?;
        Ok(Choice::Reset(selection))
    }

    fn tell(&self, choice: &Choice, tensors: usize) -> Result<()> {
        let (what, reset, share) = match choice {
            Choice::Average(share) => (format!("averaged, the base with weight {share}"), None, *share),
            Choice::Reset(selection) => {
                let (reset, share) = (selection.frozen().len(), 1.0 - selection.trained_share());
                let what = format!(
                    "{reset} of {tensors} tensors ({:.1} % of the numbers) reset",
                    100.0 * share
                );
                (what, Some(reset), share)
            }
        };
        if self.json {
            output::json(&json!({
                "output": self.output,
                "tensors": tensors,
                "reset_tensors": reset,
                "base_share": share,
                "seed": reset.map(|_| self.seed),
            }))?;
        }
        output::note(format!("{what}; written to `{}`", self.output.display()));
        Ok(())
    }
}
