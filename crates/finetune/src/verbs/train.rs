//! `finetune train`: a run as a recipe says.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow, bail};
use checkpoint::TokenizerFiles;
use methods::recipe::{ObjectiveConfig, Recipe, Surgery};
use models::PromptFormat;
use models::machine::Dtype;
use session::training::{self, Begin, Watch, record};
use train::{Outcome, Report};

use crate::args::MachineArgs;
use crate::output;

/// Arguments of `train`.
#[derive(clap::Args, Debug)]
#[command(after_help = after_help())]
pub struct Args {
    /// The recipe, a TOML file
    recipe: PathBuf,
    /// Change the recipe for this run; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Continue from the newest checkpoint in the output folder, bit for bit
    #[arg(long)]
    resume: bool,
    /// With --resume: go on though this key of the recipe differs, such as `train.max_steps`; may be given several times
    #[arg(long, value_name = "KEY", requires = "resume")]
    allow: Vec<String>,
    /// The run's numbers (steps, tokens, seconds, loss), as JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Trains.
    pub fn run(self) -> Result<ExitCode> {
        let recipe = Recipe::read(&self.recipe, &self.set)?;
        let dtype = match recipe.model.dtype {
            Dtype::Auto if self.resume => record::dtype_of(recipe.output_dir())?.unwrap_or_default(),
            dtype => dtype,
        };
        let machine = self.machine.or(dtype, &recipe.model.device).start()?;
        if let Some(key) = self.allow.iter().find(|key| !record::is_allowable(key)) {
            bail!(
                "`--allow {key}`: wanted one of {}, found a key with which no run can go on\n\
                 hint: begin a new run in another `train.output_dir`",
                record::listing()
            );
        }
        let begin = if self.resume { Begin::Resume } else { Begin::New };
        let folder = recipe.output_dir().clone();
        let is_adapter = recipe.surgery.iter().any(Surgery::is_adapter);
        let model = recipe.model.name_or_path.clone();
        let has_labels = matches!(
            recipe.objective,
            ObjectiveConfig::Classify(_) | ObjectiveConfig::Reward(_)
        );
        let watch = Watch::new(stop_flag()?)
            .allowing(&self.allow)
            .with_events(output::events());
        let report = training::run(recipe, machine, begin, &watch)?;
        if self.json {
            output::json(&serde_json::json!({
                "output_dir": folder,
                "outcome": report.outcome.to_string(),
                "steps": report.num_steps,
                "epochs": report.num_epochs,
                "tokens": report.num_tokens,
                "seconds": report.seconds,
                "tokens_per_second": report.tokens_per_second,
                "peak_memory_bytes": report.peak_memory_bytes,
                "train_loss": report.train_loss,
            }))?;
        }
        tell(&report, &folder);
        if matches!(report.outcome, Outcome::Interrupted { .. }) {
            return Ok(ExitCode::FAILURE);
        }
        let format = PromptFormat::in_files(&TokenizerFiles::in_folder(&folder)?)?;
        let shown = folder.display();
        let try_it = if is_adapter {
            format!("--model {model} --adapter {shown}")
        } else {
            format!("--model {shown}")
        };
        output::note(if has_labels {
            format!("try it: finetune classify {try_it} --text \"…\"")
        } else {
            format!("try it: {}", hint(format, &try_it))
        });
        Ok(ExitCode::SUCCESS)
    }
}

/// What follows the flags in the help: keys, methods, rewards.
fn after_help() -> String {
    format!(
        "Keys of `--set` are the recipe's, with dots between; lists are counted from 0 (surgery.0.r=4).\n\n\
         Kinds of `[[surgery]]`:\n{}\n\n\
         A reward of kind = \"command\" (ppo, grpo) is a program: for each reply it reads a line of JSON from stdin,\n\
         {{\"id\": 0, \"prompt\": \"…\", \"reply\": \"…\"}} with the row's other columns, and answers each by one line on stdout,\n\
         {{\"id\": 0, \"score\": 0.5}}; messages belong on stderr. docs/rewards.md has the whole contract and an example.\n\n\
         Example:\n  finetune train recipes/sft-lora.toml --set train.learning_rate=1e-4 --set train.output_dir=runs/mine",
        methods::summaries()
    )
}

/// The command that asks a model as it was trained.
fn hint(format: Option<PromptFormat>, model: &str) -> String {
    match format {
        Some(PromptFormat::RawText) => format!("finetune generate {model} --prompt \"…\""),
        _ => format!("finetune chat {model}"),
    }
}

fn tell(report: &Report, folder: &std::path::Path) {
    output::note(format!(
        "{}: {} steps, {} tokens in {} ({:.0} tokens/s, peak memory {}), mean loss {:.4}; written to `{}`",
        report.outcome,
        report.num_steps,
        output::count(report.num_tokens as f64),
        output::seconds(report.seconds),
        report.tokens_per_second,
        report
            .peak_memory_bytes
            .map_or_else(|| "unknown".into(), |bytes| output::bytes(bytes as f64)),
        report.train_loss,
        folder.display()
    ));
}

/// Set by the first Ctrl-C; the second one leaves at once. A process has one, whatever it trains.
fn stop_flag() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    static CAUGHT: OnceLock<Result<(), String>> = OnceLock::new();
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            // Handlers at the exit would take apart what libtorch's threads are working with.
            signal_hook::low_level::exit(130);
        }
        eprintln!("stopping after this step; once more to stop at once and lose what was not saved");
    };
    let caught = CAUGHT.get_or_init(|| ctrlc::set_handler(handler).map_err(|error| error.to_string()));
    caught
        .clone()
        .map_err(|error| anyhow!("Ctrl-C cannot be caught: {error}"))?;
    Ok(&STOP)
}
