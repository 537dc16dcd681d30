//! `finetune upcycle`: a mixture of experts from a dense model, or from several tuned copies of one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use checkpoint::ModelConfig;
use models::Source;
use moe::UpcycleConfig;
use rewrite::upcycle::{self, Rest, Upcycling};
use serde_json::json;

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
            upcycle::fits(&base, copy)?;
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
        upcycling.write(&self.output, &sparse, self.machine.written(device))?;
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
