//! `finetune combine`: several adapters of one base as one, in PEFT's format.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use checkpoint::{StagedDir, TokenizerFiles};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use lora::combine::{Combination, CombinationType, CombineConfig, MajoritySign, Weighted, combine};
use methods::Attached as _;
use methods::peft::{Adapter, LABELS, save_adapter};
use models::provenance::{self, Base};
use models::quantised::Quantisation;
use serde_json::{Value, json};
use session::adapters::{AdapterArg, Templates};

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

/// How the base under them was packed, as far as they say; an error if they say different things.
fn quantisation(adapters: &[Adapter]) -> Result<Option<Quantisation>> {
    let mut found: Option<(&Path, Quantisation)> = None;
    for adapter in adapters {
        match (&found, Quantisation::of_adapter(adapter.path())?) {
            (Some((first, one)), Some(other)) if *one != other => bail!(
                "`{}` was trained over {one}, `{}` over {other}\n\
                 hint: adapters of one base can be combined; merge one of them into a model of its own",
                first.display(),
                adapter.path().display()
            ),
            (None, Some(own)) => found = Some((adapter.path(), own)),
            _ => {}
        }
    }
    let Some((first, own)) = found else { return Ok(None) };
    for adapter in adapters {
        if Quantisation::of_adapter(adapter.path())?.is_none() {
            output::note(format!(
                "warning: `{}` was trained over {own}, `{}` does not say that it was: the result is one for {own}",
                first.display(),
                adapter.path().display()
            ));
        }
    }
    Ok(Some(own))
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
        self.refuse_other_bases(&adapters)?;
        let packing = quantisation(&adapters)?;
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
        let combination = combine(&weighted(&self.adapter, &adapters), &options, &mut |done, all| {
            work.set(done, all);
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        drop(work);
        self.write(&adapters, &combination, packing.as_ref())?;
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

    /// Adapters of different models may have the same shapes; only their names tell.
    fn refuse_other_bases(&self, adapters: &[Adapter]) -> Result<()> {
        let tasks = adapters.iter().map(|one| (one, &one.file().config().task_type));
        refuse_two("task", tasks, "adapters of one task can be combined")?;
        if self.base_model.is_none() {
            // What they were trained over says more than what it was called.
            let recorded = recorded_bases(adapters)?;
            let hashes: Vec<Option<String>> = recorded
                .iter()
                .map(|base| base.as_ref().map(|base| base.tensors_sha256.clone()))
                .collect();
            if hashes.iter().all(Option::is_some) {
                let hint = "adapters of one base can be combined; if these bases are meant to be one model, give `--base-model`";
                return refuse_two("base (the SHA-256 of its tensors)", adapters.iter().zip(&hashes), hint);
            }
            let bases = adapters
                .iter()
                .map(|one| (one, &one.file().config().base_model_name_or_path));
            let hint = "adapters of one base can be combined; if these are names of one model, give `--base-model`";
            refuse_two("base model", bases, hint)?;
        }
        Ok(())
    }

    fn write(&self, adapters: &[Adapter], combination: &Combination, packing: Option<&Quantisation>) -> Result<()> {
        let configs = || adapters.iter().map(|adapter| adapter.file().config());
        let base = configs().find_map(|config| config.base_model_name_or_path.as_deref());
        let task = configs().find_map(|config| config.task_type.as_deref());
        let modules: Vec<_> = combination.modules.iter().map(|module| &module.at).collect();
        let base = self.base_model.as_deref().or(base);
        let is_wrapped = |adapter: &Adapter| {
            let mut named = adapter.file().named_modules();
            named.any(|(at, named)| *at != named)
        };
        let tensors = combination.tensors.iter();
        let mut tensors: lora::Tensors = tensors
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        let mut options = combination.config.clone();
        if adapters.iter().any(is_wrapped) {
            (options, tensors) = lora::in_multimodal(options, tensors)?;
        }
        let mut config = lora::to_peft_config(&options, base, task.unwrap_or_default(), modules);
        if task.is_none() {
            config.insert("task_type".into(), Value::Null);
        }
        let staged = StagedDir::create(&self.output)?;
        save_adapter(staged.path(), config, &tensors)?;
        if let Some(packing) = packing {
            packing.save(staged.path())?;
        }
        for adapter in adapters.iter().filter(|adapter| adapter.path().join(LABELS).is_file()) {
            // The classes go with the head, which one adapter at most has.
            if adapter.touches("score") {
                let from = adapter.path().join(LABELS);
                std::fs::copy(&from, staged.path().join(LABELS)).with_context(|| format!("`{}`", from.display()))?;
            }
        }
        write_provenance(adapters, staged.path())?;
        match Templates::of(adapters.iter().map(Adapter::path))? {
            Templates::None => {}
            Templates::Same(folder) => TokenizerFiles::in_folder(folder)?.save(staged.path())?,
            Templates::Different(one, other) => output::note(format!(
                "`{}` and `{}` were trained with different chat templates: none is written, the model's own will be used",
                one.display(),
                other.display()
            )),
        }
        staged.commit()?;
        Ok(())
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

/// Writes the base that all adapters were trained over, if all say which, and the adapters.
fn write_provenance(adapters: &[Adapter], folder: &Path) -> Result<()> {
    let recorded = recorded_bases(adapters)?;
    let Some(Some(base)) = recorded.first() else {
        return Ok(());
    };
    let is_same = |other: &Option<Base>| {
        other
            .as_ref()
            .is_some_and(|other| other.tensors_sha256 == base.tensors_sha256)
    };
    if !recorded.iter().all(is_same) {
        return Ok(());
    }
    let mut made = provenance::made_of(base, "combine");
    let parts = adapters.iter().map(|one| provenance::adapter(one.path()));
    made.insert("adapters".into(), parts.collect::<Result<Vec<_>>>()?.into());
    provenance::write(folder, &made)
}

/// The base that each adapter says it was trained over.
fn recorded_bases(adapters: &[Adapter]) -> Result<Vec<Option<Base>>> {
    adapters.iter().map(|one| provenance::base_of(one.path())).collect()
}

/// An error if two adapters name two things; one that names nothing fits any.
fn refuse_two<'a>(
    what: &str,
    named: impl Iterator<Item = (&'a Adapter, &'a Option<String>)>,
    hint: &str,
) -> Result<()> {
    let named: Vec<(&Path, &str)> = named
        .filter_map(|(one, name)| Some((one.path(), name.as_deref()?)))
        .collect();
    let Some((first, wanted)) = named.first() else {
        return Ok(());
    };
    match named.iter().find(|(_, name)| name != wanted) {
        None => Ok(()),
        Some((path, found)) => bail!(
            "`{}`: wanted the {what} of `{}`, which is `{wanted}`, found `{found}`\nhint: {hint}",
            path.display(),
            first.display()
        ),
    }
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
