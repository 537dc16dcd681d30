//! `finetune upcycle`: a mixture of experts from a dense model, or from several tuned copies of one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use checkpoint::{Existing, ExpertsConfig, ModelConfig, SaveOptions, TensorInfo};
use clap::ValueEnum;
use models::Source;
use moe::{Part, UpcycleConfig};
use serde_json::json;
use tch::{Kind, Tensor};
use tensor_core::ModulePath;

use crate::args::MachineArgs;
use crate::failure::usage;
use crate::output;
use crate::ranges;

/// Arguments of `upcycle`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Every feed-forward of a Llama or Mistral becomes a mixture of experts (a Mixtral, as Transformers reads it). Without\n\
                  noise and redrawn neurons the new model computes what its parent does, whatever its new routers say. With\n\
                  --expert the experts are the feed-forwards of tuned copies (branch-train-mix), taken in turns; all other\n\
                  weights are the copies' mean. One tensor is in memory at a time.\n\n\
                  Example:\n  finetune upcycle --model smollm2-135m-instruct --num-experts 4 --noise-scale 0.01 --output smollm2-4x\n  \
                  finetune upcycle --model smollm2-135m-instruct --expert runs/code --expert runs/law --output mixed"
)]
pub struct Args {
    /// The dense model: its configuration and tokenizer, and its weights where no --expert gives others
    #[arg(long, value_name = "M")]
    model: String,
    /// A tuned copy of the model, whose feed-forwards become an expert; may be given several times
    #[arg(long, value_name = "M")]
    expert: Vec<String>,
    /// How many experts each layer gets [default: 8, or as many as there are copies]
    #[arg(long, value_name = "E", value_parser = ranges::count(1))]
    num_experts: Option<usize>,
    /// How many experts each token is given to
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = ranges::count(1))]
    experts_per_token: usize,
    /// Noise that is added to each expert's matrices, as a share of their standard deviation
    #[arg(long, value_name = "S", default_value_t = 0.0, value_parser = ranges::at_least(0.0), allow_negative_numbers = true)]
    noise_scale: f64,
    /// The share of each expert's inner neurons whose weights are drawn anew
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = ranges::between(0.0, 1.0), allow_negative_numbers = true)]
    reinitialise: f64,
    /// The standard deviation of the new routers' weights
    #[arg(long, value_name = "S", default_value_t = 0.02, value_parser = ranges::at_least(0.0), allow_negative_numbers = true)]
    router_scale: f64,
    /// Where the weights outside the experts come from, where --expert gives copies
    #[arg(long, value_enum, value_name = "W", default_value = "average", requires = "expert")]
    rest: Rest,
    /// The seed of all random numbers
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the model is written; a model that is there is not replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// What was done, as JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Weights that are no expert's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rest {
    /// The mean of the copies'
    Average,
    /// The model's
    Base,
}

impl Args {
    /// Writes the model tensor by tensor.
    pub fn run(self) -> Result<ExitCode> {
        let base = Source::open(&self.model, &output::events())?;
        let copies = self
            .expert
            .iter()
            .map(|name| Source::open(name, &output::events()))
            .collect::<Result<Vec<_>>>()?;
        for copy in &copies {
            fits(&base, copy)?;
        }
        let config = self.config(copies.len())?;
        let (e, k) = (config.num_local_experts as i64, config.num_experts_per_tok as i64);
        let sparse = base.dir().config().clone().without_quantisation().with_experts(e, k)?;
        let Some(experts) = sparse.experts.clone() else {
            bail!("`{}`: a {} has no experts", self.model, sparse.family.name());
        };
        let device = self.machine.start()?.device;
        let upcycling = Upcycling {
            base: &base,
            copies: &copies,
            experts,
            config,
            rest: self.rest,
        };
        let dtype = self.machine.written(device);
        let infos = upcycling.infos(&sparse, dtype)?;
        let work = output::events().begin("tensors", infos.len());
        let make = |info: &TensorInfo| {
            work.advance(1);
            let made = upcycling.tensor(info).map_err(|error| format!("{error:#}"))?;
            Ok(made.to_kind(info.kind).contiguous())
        };
        let options = SaveOptions {
            dtype,
            ..base.options(Existing::Refuse, "upcycle")
        };
        checkpoint::save_model(&self.output, &sparse, &infos, make, &options)?;
        drop(work);
        self.tell(&upcycling, &sparse)?;
        Ok(ExitCode::SUCCESS)
    }

    fn config(&self, copies: usize) -> Result<UpcycleConfig> {
        let num_experts = self.num_experts.unwrap_or(if copies > 0 { copies } else { 8 });
        if copies > 0 && !num_experts.is_multiple_of(copies) {
            return Err(usage(format!(
                "`--num-experts`: wanted a multiple of the {copies} copies, found {num_experts}\n\
                 hint: each copy becomes as many experts as every other"
            )));
        }
        let config = UpcycleConfig {
            num_local_experts: num_experts,
            num_experts_per_tok: self.experts_per_token,
            noise_scale: self.noise_scale,
            reinitialise: self.reinitialise,
            router_scale: self.router_scale,
            seed: self.seed,
        };
        config.check().map_err(|error| usage(error.to_string()))?;
        Ok(config)
    }

    fn tell(&self, upcycling: &Upcycling, sparse: &ModelConfig) -> Result<()> {
        let (dense, now) = (upcycling.base.dir().config().num_parameters(), sparse.num_parameters());
        let config = &upcycling.config;
        let is_exact = config.is_exact() && self.expert.is_empty();
        if self.json {
            output::json(&json!({
                "output": self.output,
                "experts": config.num_local_experts,
                "experts_per_token": config.num_experts_per_tok,
                "dense_parameters": dense,
                "parameters": now,
                "equals_parent": is_exact,
                "seed": self.seed,
            }))?;
        }
        output::note(format!(
            "{} experts a layer, {} a token: {} parameters of {}; {}; written to `{}`",
            config.num_local_experts,
            config.num_experts_per_tok,
            output::count(now as f64),
            output::count(dense as f64),
            if is_exact {
                "computes what its parent does"
            } else {
                "differs from its parent"
            },
            self.output.display()
        ));
        Ok(())
    }
}

/// Refuses a copy that is not of the same shapes.
fn fits(base: &Source, copy: &Source) -> Result<()> {
    let of = |source: &Source| {
        let mut tensors = source.dir().config().tensors();
        tensors.retain(|(name, _)| name != "lm_head.weight");
        tensors
    };
    let (wanted, found) = (of(base), of(copy));
    let differs = wanted.iter().zip(&found).find(|(wanted, found)| wanted != found);
    if let Some((wanted, found)) = differs {
        bail!(
            "`--expert {}`: wanted `{}` of shape {:?} as in `{}`, found `{}` of {:?}\nhint: experts are tuned copies of the one model",
            copy.name(),
            wanted.0,
            wanted.1,
            base.name(),
            found.0,
            found.1,
        );
    }
    if wanted.len() != found.len() || base.dir().config().family != copy.dir().config().family {
        bail!(
            "`--expert {}`: wanted a {} of {} tensors as `{}` is, found a {} of {}\nhint: experts are tuned copies of the one model",
            copy.name(),
            base.dir().config().family.name(),
            wanted.len(),
            base.name(),
            copy.dir().config().family.name(),
            found.len(),
        );
    }
    Ok(())
}

/// A mixture in the making.
struct Upcycling<'a> {
    base: &'a Source,
    copies: &'a [Source],
    experts: ExpertsConfig,
    config: UpcycleConfig,
    rest: Rest,
}

/// What a tensor of the mixture is made of.
enum Origin {
    /// A new router.
    Router { at: ModulePath },
    /// A matrix of an expert, and the dense tensor that it comes from.
    Expert {
        at: ModulePath,
        idx: usize,
        part: Part,
        dense: String,
    },
    /// The tensor of the same name.
    Same,
}

impl Upcycling<'_> {
    fn infos(&self, sparse: &ModelConfig, dtype: Option<Kind>) -> Result<Vec<TensorInfo>> {
        let tensors = sparse.tensors().into_iter();
        let infos = tensors.map(|(name, shape)| {
            let like = match self.origin(&name)? {
                Origin::Router { at } => self.dense_name(&at, Part::Gate),
                Origin::Expert { dense, .. } => dense,
                Origin::Same => name.clone(),
            };
            let kind = match dtype {
                Some(kind) => kind,
                // Packed weights become dense ones.
                None => match self.base.dir().info(&like)?.kind {
                    kind @ (Kind::Float | Kind::BFloat16 | Kind::Half) => kind,
                    _ => Kind::Float,
                },
            };
            Ok(TensorInfo { name, shape, kind })
        });
        infos.collect()
    }

    fn dense_name(&self, at: &ModulePath, part: Part) -> String {
        let block = at.as_str().trim_end_matches(self.experts.names.sublayer());
        format!("{block}mlp.{}.weight", part.dense_name())
    }

    fn origin(&self, name: &str) -> Result<Origin> {
        let sublayer = self.experts.names.sublayer();
        let Some((block, inside)) = name.split_once(&format!(".{sublayer}.")) else {
            return Ok(Origin::Same);
        };
        let at = ModulePath::from(block).join(sublayer);
        if inside == "gate.weight" {
            return Ok(Origin::Router { at });
        }
        let names = self.experts.names.projections();
        let parts: Vec<&str> = inside.split('.').collect();
        let &["experts", idx, matrix, "weight"] = parts.as_slice() else {
            bail!("`{name}` has no place in a mixture of experts");
        };
        let part = names.iter().position(|name| *name == matrix);
        let part = Part::ALL[part.with_context(|| format!("`{name}` is no matrix of an expert"))?];
        let dense = self.dense_name(&at, part);
        let at = at.join("experts").join(idx);
        let idx = idx.parse()?;
        Ok(Origin::Expert { at, idx, part, dense })
    }

    fn tensor(&self, info: &TensorInfo) -> Result<Tensor> {
        match self.origin(&info.name)? {
            Origin::Router { at } => Ok(self.config.router(&at, info.shape[1])),
            Origin::Expert { at, idx, part, dense } => {
                let of = match self.copies.len() {
                    0 => self.base,
                    count => &self.copies[idx % count],
                };
                let weight = of.dir().tensor_as(&dense, Kind::Float)?;
                Ok(self.config.matrix(&at, part, &weight))
            }
            Origin::Same if self.copies.is_empty() || self.rest == Rest::Base => {
                Ok(self.base.dir().tensor(&info.name)?)
            }
            Origin::Same => {
                let mut sum = Tensor::zeros(info.shape.as_slice(), (Kind::Float, tch::Device::Cpu));
                for copy in self.copies {
                    let tied = info.name == "lm_head.weight" && copy.dir().config().tie_word_embeddings;
                    let name = if tied { "model.embed_tokens.weight" } else { &info.name };
                    sum += copy.dir().tensor_as(name, Kind::Float)?;
                }
                Ok(sum / self.copies.len() as f64)
            }
        }
    }
}
