//! `finetune reset`: a random half of a tuned model back to what it was; or the average of both.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use checkpoint::{Existing, SaveOptions, TensorInfo};
use hft::{Granularity, HalfSelection, Piece};
use methods::hft::pieces_of_config;
use models::Source;
use serde_json::json;
use tch::Tensor;

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
        let dtype = self.machine.written(device);
        let mut infos = Vec::new();
        let mut kept = Vec::new();
        for piece in &pieces {
            let kind = tuned.dir().info(piece.path.as_str())?.kind;
            if !mixing.check(piece)? {
                kept.push(piece.path.to_string());
            }
            infos.push(TensorInfo {
                name: piece.path.to_string(),
                shape: piece.shape.clone(),
                kind: dtype.unwrap_or(kind),
            });
        }
        if !kept.is_empty() {
            output::note(format!("not in `{}`, so left as tuned: {}", self.base, kept.join(", ")));
        }
        let work = output::events().begin("tensors", infos.len());
        let make = |info: &TensorInfo| {
            work.advance(1);
            let made = mixing.tensor(&info.name).map_err(|error| format!("{error:#}"))?;
            Ok(made.to_kind(info.kind).contiguous())
        };
        let options = SaveOptions {
            dtype,
            ..tuned.options(Existing::Refuse, "reset")
        };
        checkpoint::save_model(&self.output, tuned.dir().config(), &infos, make, &options)?;
        drop(work);
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

enum Choice {
    Reset(HalfSelection),
    Average(f64),
}

/// Two models that become one.
struct Mixing<'a> {
    tuned: &'a Source,
    base: &'a Source,
    choice: Choice,
}

impl Mixing<'_> {
    /// How much of a tensor is the base's.
    fn share(&self, piece: &str) -> f64 {
        match &self.choice {
            Choice::Average(share) => *share,
            Choice::Reset(selection) if selection.trains(&piece.into()) => 0.0,
            Choice::Reset(_) => 1.0,
        }
    }

    /// The base's name of a tensor: a tied output layer is its embedding.
    fn in_base<'n>(&self, name: &'n str) -> Option<&'n str> {
        let dir = self.base.dir();
        let tied = name == "lm_head.weight" && dir.config().tie_word_embeddings;
        let name = if tied { "model.embed_tokens.weight" } else { name };
        dir.contains(name).then_some(name)
    }

    /// Whether the base has this tensor; an error if it should have it, or has it in another shape.
    fn check(&self, piece: &Piece) -> Result<bool> {
        let Some(name) = self.in_base(piece.path.as_str()) else {
            // A new head has no past.
            if piece.role == tensor_core::Role::Head {
                return Ok(false);
            }
            bail!(
                "`{}`: wanted a tensor `{}`, found none of that name\nhint: `--base` is the model that `--model` was tuned from",
                self.base.name(),
                piece.path
            );
        };
        let found = self.base.dir().info(name)?.shape;
        if found != piece.shape {
            let (at, wanted) = (piece.path.clone(), piece.shape.clone());
            return Err(hft::Error::Shape { at, wanted, found }.into());
        }
        Ok(true)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tuned = self.tuned.dir().tensor(name)?;
        let (share, base) = (self.share(name), self.in_base(name));
        match base {
            Some(base) if share > 0.0 => {
                let base = self.base.dir().tensor(base)?;
                Ok(hft::average(&name.into(), &tuned, &base, share)?)
            }
            _ => Ok(tuned),
        }
    }
}
