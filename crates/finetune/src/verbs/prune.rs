//! `finetune prune`: a model in, a sparser or smaller one out.

mod report;
mod structure;
mod weights;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use checkpoint::{Existing, StagedDir};
use clap::ValueEnum;
use decoder::Decoder;
use methods::pruning::{self, Samples};
use models::Source;
use rewrite::prune::{By, Measured};

use self::report::{Done, Report};
use self::structure::StructureArgs;
use self::weights::WeightArgs;
use crate::args::{CalibrationArgs, MachineArgs};
use crate::failure::usage;
use crate::output;

/// Arguments of `prune`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Weights one by one: of every matrix of the blocks a share becomes zero (--sparsity), or so many of every so many\n\
                  inputs (--pattern). magnitude takes the smallest; wanda weighs them by their inputs; sparsegpt lets the others\n\
                  make up for what goes. The file is no smaller for it.\n\
                  Whole parts: block-influence and angular take out blocks (--num-hidden-layers stay), taylor and activation\n\
                  heads and channels (--num-key-value-heads, --intermediate-size stay). The model is smaller and faster.\n\
                  All but magnitude look at text, which should be of the kind that the model will read. What is written loads\n\
                  like any other model; what was done is kept beside it as pruning.json. Computed and written in the model's own\n\
                  dtype, or in that of --dtype.\n\n\
                  Example:\n  finetune prune --model smollm2-135m-instruct --method sparsegpt --sparsity 0.5 \\\n    \
                  --calibration texts.jsonl --eval held-out.jsonl --output sparse\n  \
                  finetune prune --model smollm2-135m-instruct --method block-influence --num-hidden-layers 26 \\\n    \
                  --calibration texts.jsonl --output shallow"
)]
pub struct Args {
    /// A model directory, a .gguf file, a name in the local store, or a hub id
    #[arg(long, value_name = "M")]
    model: String,
    /// How the weights or parts to remove are chosen
    #[arg(long, value_enum, value_name = "METHOD")]
    method: Method,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    structure: StructureArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
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

/// By what weights or parts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Weights by their size
    Magnitude,
    /// Weights by their size times their input's strength
    Wanda,
    /// Weights by the error that is left when the others are adjusted
    #[value(name = "sparsegpt")]
    SparseGpt,
    /// Blocks by how little they change their input
    BlockInfluence,
    /// Consecutive blocks by the angle between their input and output
    Angular,
    /// Heads and channels by how much the loss would rise without them
    Taylor,
    /// Heads and channels by the size of their activations
    Activation,
}

/// What is chosen, and by what.
enum Rule {
    Weights(prune::Method),
    Parts(By),
}

impl Method {
    /// The rule for weights one by one, or that for whole parts.
    fn rule(self) -> Rule {
        match self {
            Self::Magnitude => Rule::Weights(prune::Method::Magnitude),
            Self::Wanda => Rule::Weights(prune::Method::Wanda),
            Self::SparseGpt => Rule::Weights(prune::Method::SparseGpt),
            Self::BlockInfluence => Rule::Parts(By::BlockInfluence),
            Self::Angular => Rule::Parts(By::Angular),
            Self::Taylor => Rule::Parts(By::Taylor),
            Self::Activation => Rule::Parts(By::Activation),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Args {
    /// Prunes.
    pub fn run(self) -> Result<ExitCode> {
        let begun = Instant::now();
        refuse_existing(&self.output)?;
        let source = Source::open(&self.model, &output::events())?;
        let Outcome {
            staged,
            done,
            samples,
            before,
            after,
        } = match self.method.rule() {
            Rule::Weights(method) => self.thin(method, &source)?,
            Rule::Parts(by) => self.cut(by, &source)?,
        };
        let report = Report {
            model: &self.model,
            done: &done,
            samples: samples.as_ref(),
            before: &before,
            after: &after,
            seconds: begun.elapsed().as_secs_f64(),
        };
        // It appears with the model: one that is there tells how it was made.
        report.write(staged.path())?;
        staged.commit()?;
        report.tell(self.json)?;
        output::note(format!("written to `{}`", self.output.display()));
        Ok(ExitCode::SUCCESS)
    }

    fn machine(&self, source: &Source) -> MachineArgs {
        self.machine.keeping(source.dir().config().dtype)
    }

    fn thin(&self, method: prune::Method, source: &Source) -> Result<Outcome> {
        if self.structure.is_given() {
            return Err(usage(format!(
                "`--method {}` makes weights zero, found a size of whole parts beside it\n\
                 hint: give `--sparsity` or `--pattern`",
                self.method
            )));
        }
        let config = self.weights.config(method);
        let plan = config.plan().map_err(|error| usage(error.to_string()))?;
        self.check_calibration(plan.needs_calibration())?;
        let tokenizer = source.tokenizer()?;
        let samples = Samples::read(
            &self.calibration.config(),
            plan.needs_calibration(),
            &tokenizer,
            source.dir().config(),
            source.events(),
        )?;
        let model = source.decoder(self.machine(source).start()?)?;
        let measure = |model: &Decoder| Measured::of(model, &tokenizer, self.eval.as_deref());
        let before = measure(&model)?;
        let (model, thinned) = pruning::thin(model, &plan, samples.as_ref(), source.events())?;
        let after = measure(&model)?;
        Ok(Outcome {
            staged: model.stage(&self.output, &source.options(Existing::Refuse, "prune"))?,
            done: Done::Weights { config, thinned },
            samples,
            before,
            after,
        })
    }

    /// Refuses text for a method that looks at none, and a method that looks at text without any.
    fn check_calibration(&self, is_needed: bool) -> Result<()> {
        match (self.calibration.calibration.is_some(), is_needed) {
            (true, false) => Err(usage(format!(
                "`calibration`: `--method {}` looks at no text\nhint: remove it",
                self.method
            ))),
            (false, true) => Err(usage(format!(
                "`calibration` is missing: `--method {}` looks at text\n\
                 hint: `--calibration FILE`, of the kind of text that the model will read",
                self.method
            ))),
            _ => Ok(()),
        }
    }

    fn cut(&self, by: By, source: &Source) -> Result<Outcome> {
        if let Some(option) = self.weights.given() {
            return Err(usage(format!(
                "`--method {}` takes out whole parts, found `--{option}` beside it\nhint: remove it",
                self.method
            )));
        }
        let structure = self.structure.structure(self.method, by, source.dir().config())?;
        self.check_calibration(true)?;
        let tokenizer = source.tokenizer()?;
        let Some(samples) = Samples::read(
            &self.calibration.config(),
            true,
            &tokenizer,
            source.dir().config(),
            source.events(),
        )?
        else {
            bail!("`calibration` is missing");
        };
        let machine = self.machine(source).start()?;
        let model = source.decoder(machine)?;
        let measure = |model: &Decoder| Measured::of(model, &tokenizer, self.eval.as_deref());
        let before = measure(&model)?;
        let (model, taken) = structure.choose(model, &samples, source.events())?;
        let staged = taken.stage(&model, source, &self.output)?;
        drop(model);
        // What is measured is what lies on the disk.
        let written = Source::open(&staged.path().display().to_string(), &output::events())?;
        let after = measure(&written.decoder(machine)?)?;
        Ok(Outcome {
            staged,
            done: Done::Parts(taken),
            samples: Some(samples),
            before,
            after,
        })
    }
}

/// What was done, on what text, and the model before and after.
struct Outcome {
    /// The pruned model, which nobody sees yet.
    staged: StagedDir,
    done: Done,
    samples: Option<Samples>,
    before: Measured,
    after: Measured,
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
