//! `finetune experts`: fewer experts in a mixture, those that a sample of text needs least.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use checkpoint::Existing;
use clap::ValueEnum;
use data::{Dataset, ReadConfig};
use decoder::Decoder;
use models::Source;
use models::experts::RouterOptions;
use models::machine::Machine;
use models::prompts::{self, Form};
use moe::{Calibration, Experts, Groups, keep_most_used, keep_nearest, merge_experts};
use serde_json::json;
use tch::Tensor;
use tensor_core::{Documents, ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Sublayer};

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

/// What decides which experts stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// The output's distance, over every set
    Nearest,
    /// How many tokens each was given
    Usage,
    /// Chance: the control
    Random,
    /// Alike ones become one, written once for each row of the router: no fewer bytes
    Merge,
}

/// What each layer's mixture read, by its path.
type Inputs = Arc<Mutex<BTreeMap<ModulePath, Vec<Tensor>>>>;

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
        let tokenizer = source.tokenizer()?;
        let machine = self.machine.keeping(source.dir().config().dtype).start()?;
        let inputs = Inputs::default();
        let router = RouterOptions::default();
        let watched = source.decoder_made(machine, &mut as_they_are, &mut |slots| {
            Ok(Box::new(Watched {
                inner: router.layer(slots).map_err(at_root)?,
                inputs: inputs.clone(),
            }))
        })?;
        let tokens = self.sample(&watched, &rows, &tokenizer)?;
        drop(watched);
        if let Some(share) = self.relevant {
            return self.tell_relevant(share, &source, machine, (&inputs, tokens));
        }
        let mut layers = Vec::new();
        let made = source.decoder_made(machine, &mut as_they_are, &mut |slots| {
            let at = slots.at.clone();
            let layer = router.layer(slots).map_err(at_root)?;
            let seen = inputs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&at)
                .unwrap_or_default();
            let x = Tensor::cat(&seen, 0);
            let (layer, told) = self.fewer(layer, &x).map_err(|error| error_at(&at, error))?;
            layers.push(told);
            Ok(Box::new(layer))
        })?;
        let config = made.config().clone();
        let config = match self.by {
            By::Merge => config,
            _ => config.with_num_experts(self.keep() as i64),
        };
        let written = config.experts.as_ref().map_or(0, |experts| experts.num_experts);
        let made = made.replace_feed_forwards(config, &mut |_, layer| Ok(layer))?;
        let output = self.output.clone().unwrap_or_default();
        checkpoint_of(&source, &made, &output)?;
        self.tell(&layers, tokens, written, &output)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Experts that stay; 0 where none go.
    fn keep(&self) -> usize {
        self.keep.unwrap_or(0)
    }

    /// ESFT's choice by token ratio (Wang et al. 2024, arXiv:2407.01906): which experts the sample goes to.
    fn tell_relevant(
        &self,
        share: f64,
        source: &Source,
        machine: Machine,
        (inputs, tokens): (&Inputs, usize),
    ) -> Result<ExitCode> {
        let (mut layers, mut parameters) = (Vec::new(), Vec::new());
        source.decoder_made(machine, &mut as_they_are, &mut |slots| {
            let at = slots.at.clone();
            let layer = RouterOptions::default().layer(slots).map_err(at_root)?;
            let seen = inputs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&at)
                .unwrap_or_default();
            let sample = Calibration::of(&layer, &Tensor::cat(&seen, 0));
            let (experts, reached) = most_used(sample.usage(), share);
            let chosen: Vec<String> = experts.iter().map(ToString::to_string).collect();
            let path = regex::escape(at.as_str());
            parameters.push(format!("^{path}\\.experts\\.({})\\.", chosen.join("|")));
            layers.push(json!({"layer": at.to_string(), "experts": experts, "share": reached}));
            Ok(Box::new(layer))
        })?;
        if self.json {
            let told = json!({"sample_tokens": tokens, "layers": layers, "unfrozen_parameters": parameters});
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

    /// Runs rows of the sample until there are enough tokens; how many there were.
    fn sample(&self, model: &Decoder, rows: &Dataset, tokenizer: &data::Tokenizer) -> Result<usize> {
        let mut count = 0;
        for idx in 0..rows.len() {
            let whole = prompts::whole(rows.row(idx), Form::Plain, tokenizer);
            let mut tokens = whole.with_context(|| rows.place(idx).to_string())?.tokens;
            tokens.truncate((self.max_tokens - count).min(model.max_positions()));
            if tokens.is_empty() {
                continue;
            }
            let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
            let documents = Documents::new(&[ids.len()]);
            let _ = model.hidden(
                &Tensor::from_slice(&ids).to_device(model.device()),
                &Pass::evaluate(&documents),
            );
            count += ids.len();
            if count >= self.max_tokens {
                break;
            }
        }
        if count == 0 {
            bail!("`{}` holds no text to sample", self.data.display());
        }
        Ok(count)
    }

    /// The layer with fewer experts, and what was done.
    fn fewer(&self, layer: Experts, x: &Tensor) -> moe::Result<(Experts, serde_json::Value)> {
        let sample = Calibration::of(&layer, x);
        let at = layer.path().to_string();
        let usage = sample.usage().to_vec();
        let told = |kept: &[usize], distance: Option<f64>| json!({"layer": at, "kept": kept, "usage": usage, "distance": distance, "skip_below": sample.skip_threshold()});
        let kept = match self.by {
            By::Merge => {
                let groups = Groups::choose(&sample, self.keep())?;
                let told = told(&groups.leaders, None);
                return Ok((merge_experts(layer, &sample, &groups)?.spread(), told));
            }
            By::Nearest => keep_nearest(&layer, &sample, self.keep())?.0,
            By::Usage => keep_most_used(&sample, self.keep())?,
            By::Random => {
                let key = tensor_core::DropoutKey(self.seed).at(layer.path().site());
                let mut order: Vec<usize> = (0..usage.len()).collect();
                order.sort_by_key(|&expert| key.at(expert as u64).0);
                order.truncate(self.keep());
                order.sort_unstable();
                order
            }
        };
        let told = told(&kept, Some(sample.distance(&layer, &kept)?));
        Ok((layer.keeping(&kept)?, told))
    }

    fn tell(&self, layers: &[serde_json::Value], tokens: usize, written: i64, output: &Path) -> Result<()> {
        let written = written as usize;
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

/// The fewest experts that together have `share` of all tokens, ascending, and the share that they have.
fn most_used(usage: &[f64], share: f64) -> (Vec<usize>, f64) {
    let total: f64 = usage.iter().sum::<f64>().max(1.0);
    let mut order: Vec<usize> = (0..usage.len()).collect();
    order.sort_by(|&a, &b| usage[b].total_cmp(&usage[a]).then(a.cmp(&b)));
    let (mut chosen, mut reached) = (Vec::new(), 0.0);
    for expert in order {
        if reached >= share {
            break;
        }
        chosen.push(expert);
        reached += usage[expert] / total;
    }
    chosen.sort_unstable();
    (chosen, reached)
}

fn checkpoint_of(source: &Source, model: &Decoder, folder: &Path) -> Result<()> {
    let options = checkpoint::SaveOptions {
        dtype: Some(model.kind()).filter(|_| source.dir().config().dtype.is_none()),
        ..source.options(Existing::Refuse, "experts")
    };
    Ok(model.save(folder, &options)?)
}

#[expect(clippy::unnecessary_wraps, reason = "a surgeon's form")]
fn as_they_are(
    _: &ModulePath,
    projection: Box<dyn tensor_core::Projection>,
) -> tensor_core::Result<Box<dyn tensor_core::Projection>> {
    Ok(projection)
}

fn at_root(error: moe::Error) -> tensor_core::Error {
    error_at(&ModulePath::root(), error)
}

fn error_at(at: &ModulePath, error: moe::Error) -> tensor_core::Error {
    tensor_core::Error::Surgery {
        at: at.clone(),
        source: Box::new(error),
    }
}

/// A mixture that keeps what it reads.
#[derive(Debug)]
struct Watched {
    inner: Experts,
    inputs: Inputs,
}

impl Sublayer for Watched {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        inputs
            .entry(self.inner.path().clone())
            .or_default()
            .push(x.detach().copy());
        drop(inputs);
        self.inner.forward(x, pass)
    }

    fn map_projections(
        self: Box<Self>,
        at: &ModulePath,
        surgeon: &mut ProjectionSurgeon,
    ) -> tensor_core::Result<Box<dyn Sublayer>> {
        Box::new(self.inner).map_projections(at, surgeon)
    }
}

impl Parameters for Watched {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.inner.visit(at, visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_experts_reach_the_share() {
        let usage = [10.0, 50.0, 0.0, 40.0];
        assert_eq!(most_used(&usage, 0.2), (vec![1], 0.5));
        assert_eq!(most_used(&usage, 0.6).0, [1, 3]);
        assert_eq!(most_used(&usage, 1.0), (vec![0, 1, 3], 1.0));
    }
}
