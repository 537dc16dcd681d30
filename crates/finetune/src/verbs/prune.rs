//! `finetune prune`: a model in, a sparser one out.

mod measure;
mod report;
mod samples;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use checkpoint::Existing;
use decoder::Decoder;
use prune::{Calibration, Method, Pattern, PruneConfig, Scope, Thinned};

use self::measure::Measured;
use self::report::Report;
use self::samples::{SampleArgs, Samples};
use crate::machine::MachineArgs;
use crate::model::Source;
use crate::output;

/// Arguments of `prune`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Of every matrix of the blocks a share of the weights becomes zero, or so many of every so many inputs (--pattern).\n\
                  magnitude takes the smallest; wanda weighs them by their inputs; sparsegpt lets the others make up for what goes.\n\
                  The last two look at text, which should be of the kind that the model will read. Embedding, output layer and\n\
                  norms stay. The model that is written loads like any other; zeros take the room of numbers in it. What was done\n\
                  is kept beside it as pruning.json.\n\n\
                  Example:\n  finetune prune --model smollm2-135m-instruct --method sparsegpt --sparsity 0.5 \\\n    \
                  --calibration texts.jsonl --eval held-out.jsonl --output sparse"
)]
pub struct Args {
    /// A model directory, a .gguf file, a name in the local store, or a hub id
    #[arg(long, value_name = "M")]
    model: String,
    /// By what weights are chosen
    #[arg(long, value_name = "METHOD", value_parser = parse::<Method>)]
    method: Method,
    /// The share of the weights that becomes zero
    #[arg(long, value_name = "F", conflicts_with = "pattern")]
    sparsity: Option<f64>,
    /// So many zeros in every so many consecutive inputs: `2:4`
    #[arg(long, value_name = "N:M")]
    pattern: Option<Pattern>,
    /// magnitude: within what sizes are compared [default: matrix]
    #[arg(long, value_name = "SCOPE", value_parser = parse::<Scope>)]
    per: Option<Scope>,
    /// sparsegpt: what is added to the inputs' products, as a share of their mean [default: 0.01]
    #[arg(long, value_name = "F")]
    damping: Option<f64>,
    /// sparsegpt: columns whose mask is chosen at once [default: 128]
    #[arg(long, value_name = "N")]
    block_size: Option<usize>,
    /// Names of the modules that are pruned [default: all projections of the blocks]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    target_modules: Vec<String>,
    /// Names of modules that are not
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    exclude_modules: Vec<String>,
    #[command(flatten)]
    samples: SampleArgs,
    /// Text whose perplexity is measured before and after
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
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
    /// Prunes block by block.
    pub fn run(self) -> Result<ExitCode> {
        let begun = Instant::now();
        refuse_existing(&self.output)?;
        let plan = self.config().plan()?;
        let source = Source::open(&self.model)?;
        let tokenizer = source.tokenizer()?;
        let samples = Samples::read(
            &self.samples,
            plan.needs_calibration(),
            &tokenizer,
            source.dir().config(),
        )?;
        let machine = self.machine.start()?;
        let model = source.decoder(machine)?;
        let measure = |model: &Decoder| Measured::of(model, &tokenizer, self.eval.as_deref());
        let before = measure(&model)?;
        let (model, thinned) = thinned(model, &plan, samples.as_ref())?;
        let after = measure(&model)?;
        model.save(&self.output, &source.options(Existing::Refuse))?;
        let report = Report {
            model: &self.model,
            config: &self.config(),
            samples: samples.as_ref(),
            thinned: &thinned,
            before: &before,
            after: &after,
            seconds: begun.elapsed().as_secs_f64(),
        };
        report.write(&self.output)?;
        report.tell(self.json)?;
        output::note(format!("written to `{}`", self.output.display()));
        Ok(ExitCode::SUCCESS)
    }

    fn config(&self) -> PruneConfig {
        PruneConfig {
            method: self.method,
            sparsity: self.sparsity,
            pattern: self.pattern,
            per: self.per,
            damping: self.damping,
            block_size: self.block_size,
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
        }
    }
}

fn thinned(model: Decoder, plan: &prune::Plan, samples: Option<&Samples>) -> Result<(Decoder, Vec<Thinned>)> {
    let calibration = samples.map(|samples| Calibration::new(&model, samples.rows(model.device())));
    let bar = output::bar(model.blocks().len(), "blocks");
    let mut operate =
        |model: Decoder, surgeon: &mut tensor_core::ProjectionSurgeon| Ok(model.map_projections(surgeon)?);
    let made = prune::prune(model, plan, calibration, &mut operate, &mut |_| bar.inc(1))?;
    bar.finish_and_clear();
    Ok(made)
}

/// Minutes of work would end in this.
fn refuse_existing(folder: &Path) -> Result<()> {
    if folder.join("config.json").exists() {
        bail!(
            "`{}`: wanted a place for a new model, found one there\nhint: choose another `--output`, or remove it",
            folder.display()
        );
    }
    Ok(())
}

/// A word of a recipe as an argument.
fn parse<T: serde::de::DeserializeOwned>(word: &str) -> Result<T, String> {
    serde_json::from_value(word.into()).map_err(|error: serde_json::Error| error.to_string())
}
