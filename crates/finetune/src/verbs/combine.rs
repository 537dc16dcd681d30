//! `finetune combine`: several adapters of one base as one, in PEFT's format.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use lora::combine::{Combination, CombinationType, CombineConfig, MajoritySign, Weighted};
use methods::Attached as _;
use methods::peft::Adapter;
use rewrite::combine;
use serde_json::{Value, json};
use session::adapters::AdapterArg;

use crate::failure::usage;
use crate::output;
use crate::ranges;

/// Arguments of `combine`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Types: sum is the exact weighted sum of the updates, at the smallest rank that holds it or cut to --rank; the others\n\
                  are those of PEFT's add_weighted_adapter. Each module's rank is shown with the share of the update that the rank\n\
                  explains, and how far the result is from the exact sum.\n\n\
                  Example:\n  finetune combine --adapter runs/poems=0.7 --adapter runs/jokes=0.3 --output runs/both\n  \
                  finetune combine --adapter runs/a --adapter runs/b --type ties_svd --density 0.5 --rank 16 --output runs/c"
)]
pub struct Args {
    /// An adapter's folder with its weight (1 if none is given; a negative weight subtracts the adapter); may be given
    /// several times
    #[arg(long, value_name = "DIR=WEIGHT", required = true)]
    adapter: Vec<AdapterArg>,
    /// How they are combined
    #[arg(long = "type", value_name = "T", default_value = "sum", value_parser = types())]
    combination_type: CombinationType,
    /// The rank of the result, for sum, svd and the types that end in _svd
    #[arg(long, value_name = "R", visible_alias = "svd-rank", value_parser = clap::value_parser!(i64).range(1..), allow_negative_numbers = true)]
    rank: Option<i64>,
    /// The share of each update's numbers that stays, above 0, at most 1, for types with ties, dare or `magnitude_prune` in
    /// their name
    #[arg(long, value_name = "D", value_parser = ranges::share_above_zero(), allow_negative_numbers = true)]
    density: Option<f64>,
    /// How the sign of each number is decided, for types with ties in their name: by the sum of the updates (total, the
    /// default) or by how many have it (frequency)
    #[arg(long, value_name = "M", value_parser = signs())]
    majority_sign_method: Option<MajoritySign>,
    /// Clip outliers of the two factors, for svd and the types that end in _svd: numbers beyond the Q-quantile of each
    /// factor are set to it (above 0.5, at most 1; 0.99 to 1 are usual)
    #[arg(long, value_name = "Q", value_parser = ranges::between(0.0, 1.0), allow_negative_numbers = true)]
    svd_clamp: Option<f64>,
    /// The seed of the random numbers of dare
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// The name of the base model to write into the result, where the adapters name the same model differently
    #[arg(long, value_name = "M")]
    base_model: Option<String>,
    /// Where the combined adapter is written; an adapter that is there is not replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Each module's rank and error as JSON on stdout
    #[arg(long)]
    json: bool,
}

fn types() -> impl clap::builder::TypedValueParser<Value = CombinationType> {
    PossibleValuesParser::new(CombinationType::ALL.map(|(_, name)| name)).try_map(|name| name.parse())
}

fn signs() -> impl clap::builder::TypedValueParser<Value = MajoritySign> {
    PossibleValuesParser::new(["total", "frequency"]).map(|name| match name.as_str() {
        "frequency" => MajoritySign::Frequency,
        _ => MajoritySign::Total,
    })
}

impl Args {
    /// Reads, combines, writes.
    pub fn run(self) -> Result<ExitCode> {
        let options = CombineConfig {
            combination_type: self.combination_type,
            svd_rank: self.rank,
            svd_clamp: self.svd_clamp,
            density: self.density,
            majority_sign_method: self.majority_sign_method,
            seed: self.seed,
        };
        options.check().map_err(|error| usage(error.to_string()))?;
        let adapters = self.open()?;
        combine::refuse_other_bases(&adapters, self.base_model.as_deref())?;
        let packing = combine::packing(&adapters, &output::events())?;
        for adapter in &adapters {
            adapter.tell(&output::events());
        }
        if self.output.join("adapter_config.json").exists() {
            let path = self.output.clone();
            return Err(checkpoint::Error::Exists {
                path,
                found: "an adapter".into(),
            }
            .into());
        }
        let work = output::events().begin("modules", 0);
        let begun = Instant::now();
        let combination = lora::combine::combine(&weighted(&self.adapter, &adapters), &options, &mut |done, all| {
            work.set(done, all);
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        drop(work);
        let parts = (&adapters[..], &combination);
        let base_model = self.base_model.as_deref();
        combine::write(&self.output, parts, packing.as_ref(), base_model, &output::events())?;
        if self.json {
            output::json(&self.facts(&combination, seconds))?;
        } else {
            show(&combination)?;
        }
        output::note(format!("combined adapter written to `{}`", self.output.display()));
        Ok(ExitCode::SUCCESS)
    }

    fn open(&self) -> Result<Vec<Adapter>> {
        let open = |one: &AdapterArg| {
            if let Some(name) = &one.name {
                let path = one.path.display();
                return Err(usage(format!(
                    "`--adapter {name}={path}`: wanted DIR=WEIGHT, found `{path}`, which is no number"
                )));
            }
            let adapter = Adapter::open(&one.path)?;
            if adapter.use_dora() {
                bail!(
                    "`{}`: `use_dora` is true, and no sum of updates holds DoRA's magnitudes, which scale whole weights\n\
                     hint: merge it into a model of its own, or train the adapters as LoRA",
                    one.path.display()
                );
            }
            Ok(adapter)
        };
        self.adapter.iter().map(open).collect()
    }

    /// What `--json` says; `seconds` are those of combining, without reading and writing.
    fn facts(&self, combination: &Combination, seconds: f64) -> Value {
        let adapters: Vec<Value> = self
            .adapter
            .iter()
            .map(|one| json!({ "path": one.path.display().to_string(), "weight": one.weight.unwrap_or(1.0) }))
            .collect();
        let modules: Vec<Value> = combination
            .modules
            .iter()
            .map(|module| {
                json!({
                    "module": module.at.as_str(),
                    "rank": module.rank,
                    "explained": module.explained,
                    "distance": module.distance,
                })
            })
            .collect();
        json!({
            "type": self.combination_type,
            "adapters": adapters,
            "output": self.output.display().to_string(),
            "modules": modules,
            "seconds": seconds,
        })
    }
}

fn weighted(args: &[AdapterArg], adapters: &[Adapter]) -> Vec<Weighted> {
    let pairs = args.iter().zip(adapters);
    pairs
        .map(|(arg, adapter)| Weighted {
            name: adapter.path().display().to_string(),
            config: adapter.config().clone(),
            tensors: adapter
                .tensors()
                .iter()
                .map(|(key, tensor)| (key.clone(), tensor.shallow_clone()))
                .collect(),
            weight: arg.weight.unwrap_or(1.0),
        })
        .collect()
}

fn show(combination: &Combination) -> Result<()> {
    let width = combination
        .modules
        .iter()
        .map(|module| module.at.as_str().len())
        .max()
        .unwrap_or(0);
    for module in &combination.modules {
        output::line(format!(
            "{:width$}  rank {:>4}  explained {:>8.4} %  off the exact sum by {:>8.4} %",
            module.at.as_str(),
            module.rank,
            100.0 * module.explained,
            100.0 * module.distance
        ))?;
    }
    Ok(())
}
