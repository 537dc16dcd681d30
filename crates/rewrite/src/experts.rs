//! Fewer experts in a mixture: those that a sample of text needs least go, layer by layer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use checkpoint::Existing;
use data::{Dataset, Tokenizer};
use decoder::Decoder;
use models::Source;
use models::experts::RouterOptions;
use models::machine::Machine;
use models::prompts::{self, Form};
use moe::{Calibration, Experts, Groups, keep_most_used, keep_nearest, merge_experts};
use serde_json::{Value, json};
use tch::Tensor;
use tensor_core::{Documents, ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Sublayer};

/// What decides which experts stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum By {
    /// The output's distance, over every set
    Nearest,
    /// How many tokens each was given
    Usage,
    /// Chance: the control
    Random,
    /// Alike ones become one, written once for each row of the router: no fewer bytes
    Merge,
}

/// How many experts stay in each layer, and how they are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Reduction {
    /// Experts that stay in each layer.
    pub keep: usize,
    /// What decides which.
    pub by: By,
    /// The seed of [`By::Random`].
    pub seed: u64,
}

/// What each layer's mixture read, by its path.
type Inputs = Arc<Mutex<BTreeMap<ModulePath, Vec<Tensor>>>>;

/// What every mixture of a model read while a sample of text went through it.
#[derive(Debug)]
pub struct Sampled<'a> {
    source: &'a Source,
    machine: Machine,
    inputs: Inputs,
    /// Tokens of the sample.
    pub tokens: usize,
}

impl<'a> Sampled<'a> {
    /// Reads `rows`, at most `most` tokens of them.
    pub fn of(source: &'a Source, machine: Machine, rows: &Dataset, most: usize) -> Result<Self> {
        let (inputs, router) = (Inputs::default(), RouterOptions::default());
        let watched = source.decoder_made(machine, &mut as_they_are, &mut |slots| {
            Ok(Box::new(Watched {
                inner: router.layer(slots).map_err(at_root)?,
                inputs: inputs.clone(),
            }))
        })?;
        let tokens = read(&watched, rows, &source.tokenizer()?, most)?;
        Ok(Self {
            source,
            machine,
            inputs,
            tokens,
        })
    }

    /// What the mixture at `at` read; given once.
    fn take(&self, at: &ModulePath) -> Tensor {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        Tensor::cat(&inputs.remove(at).unwrap_or_default(), 0)
    }

    /// Reduces each layer and writes the model into `folder`; returns what was done in each layer, and how many experts
    /// a layer has now.
    pub fn reduce(&self, reduction: Reduction, folder: &Path) -> Result<(Vec<Value>, usize)> {
        let router = RouterOptions::default();
        let mut layers = Vec::new();
        let made = self.source.decoder_made(self.machine, &mut as_they_are, &mut |slots| {
            let at = slots.at.clone();
            let layer = router.layer(slots).map_err(at_root)?;
            let (layer, told) = reduction
                .fewer(layer, &self.take(&at))
                .map_err(|error| error_at(&at, error))?;
            layers.push(told);
            Ok(Box::new(layer))
        })?;
        let config = made.config().clone();
        let config = match reduction.by {
            By::Merge => config,
            _ => config.with_num_experts(reduction.keep as i64),
        };
        let written = config.experts.as_ref().map_or(0, |experts| experts.num_experts);
        let made = made.replace_feed_forwards(config, &mut |_, layer| Ok(layer))?;
        checkpoint_of(self.source, &made, folder)?;
        Ok((layers, written as usize))
    }

    /// The experts that the sample goes to, by ESFT's token ratio (Wang et al. 2024, arXiv:2407.01906): of each layer the
    /// fewest that together have `share` of the tokens, and patterns of their parameters.
    pub fn relevant(&self, share: f64) -> Result<(Vec<Value>, Vec<String>)> {
        let (mut layers, mut parameters) = (Vec::new(), Vec::new());
        self.source.decoder_made(self.machine, &mut as_they_are, &mut |slots| {
            let at = slots.at.clone();
            let layer = RouterOptions::default().layer(slots).map_err(at_root)?;
            let sample = Calibration::of(&layer, &self.take(&at));
            let (experts, reached) = most_used(sample.usage(), share);
            let chosen: Vec<String> = experts.iter().map(ToString::to_string).collect();
            let path = regex::escape(at.as_str());
            parameters.push(format!("^{path}\\.experts\\.({})\\.", chosen.join("|")));
            layers.push(json!({"layer": at.to_string(), "experts": experts, "share": reached}));
            Ok(Box::new(layer))
        })?;
        Ok((layers, parameters))
    }
}

/// Runs rows of the sample until there are enough tokens; how many there were.
fn read(model: &Decoder, rows: &Dataset, tokenizer: &Tokenizer, most: usize) -> Result<usize> {
    let mut count = 0;
    for idx in 0..rows.len() {
        let whole = prompts::whole(rows.row(idx), Form::Plain, tokenizer);
        let mut tokens = whole.with_context(|| rows.place(idx).to_string())?.tokens;
        tokens.truncate((most - count).min(model.max_positions()));
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
        if count >= most {
            break;
        }
    }
    if count == 0 {
        bail!("the rows hold no text to sample");
    }
    Ok(count)
}

impl Reduction {
    /// The layer with fewer experts, and what was done.
    fn fewer(&self, layer: Experts, x: &Tensor) -> moe::Result<(Experts, serde_json::Value)> {
        let sample = Calibration::of(&layer, x);
        let at = layer.path().to_string();
        let usage = sample.usage().to_vec();
        let told = |kept: &[usize], distance: Option<f64>| json!({"layer": at, "kept": kept, "usage": usage, "distance": distance, "skip_below": sample.skip_threshold()});
        let kept = match self.by {
            By::Merge => {
                let groups = Groups::choose(&sample, self.keep)?;
                let told = told(&groups.leaders, None);
                return Ok((merge_experts(layer, &sample, &groups)?.spread(), told));
            }
            By::Nearest => keep_nearest(&layer, &sample, self.keep)?.0,
            By::Usage => keep_most_used(&sample, self.keep)?,
            By::Random => {
                let key = tensor_core::DropoutKey(self.seed).at(layer.path().site());
                let mut order: Vec<usize> = (0..usage.len()).collect();
                order.sort_by_key(|&expert| key.at(expert as u64).0);
                order.truncate(self.keep);
                order.sort_unstable();
                order
            }
        };
        let told = told(&kept, Some(sample.distance(&layer, &kept)?));
        Ok((layer.keeping(&kept)?, told))
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
