//! A model with, perhaps, adapters: `--model`, `--revision`, `--adapter`, `--against`.

use anyhow::{Result, bail};
use data::ReadConfig;
use decoder::HeadKind;
use events::Events;
use models::quantised::Against;
use session::adapters::{self, AdapterArg};
use session::{Loaded, Opened, classifier::classes};

use super::MachineArgs;

/// A model with, perhaps, an adapter: flags of every verb that loads one.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// A model directory, a .gguf file, a name in the local store, or a hub id
    #[arg(long, value_name = "M")]
    pub model: String,
    /// The branch, tag or commit of a model that is a hub id [default: main]
    #[arg(long, value_name = "REV")]
    pub revision: Option<String>,
    /// The folder of an adapter for the model. Several LoRA adapters: DIR=WEIGHT each adds their updates with these
    /// weights; NAME=DIR each lets every row of a data file choose one by its key `adapter` (rows without the key are read
    /// by the base alone)
    #[arg(long, value_name = "DIR")]
    pub adapter: Vec<AdapterArg>,
    /// What is put under an adapter that was trained over packed weights [default: quantized]
    #[arg(long, value_enum, value_name = "W", requires = "adapter")]
    pub against: Option<Against>,
    #[command(flatten)]
    /// What to compute on.
    pub machine: MachineArgs,
}

impl ModelArgs {
    /// Opens and loads.
    pub fn load(&self, events: &Events) -> Result<Loaded> {
        // What is small and often wrong comes first.
        let opened = Opened::new(
            &self.model,
            self.revision.as_deref(),
            &self.adapter,
            self.against,
            events,
        )?;
        opened.load(self.machine.start()?)
    }

    /// How rows are read, with what chooses their adapters.
    pub fn reading(&self) -> ReadConfig {
        adapters::reading(&self.adapter)
    }
}

/// Refuses a model whose head is not for the next token, and names the command that it is for.
pub fn needs_language_model(loaded: &Loaded, args: &ModelArgs, verb: &str) -> Result<()> {
    let kind = loaded.model.head_kind();
    if *kind == HeadKind::LanguageModel {
        return Ok(());
    }
    let found = classes(kind).map_or_else(
        || "a reward model, which gives one number".to_owned(),
        |labels| format!("a classifier of {} labels", labels.len()),
    );
    let adapters: String = args
        .adapter
        .iter()
        .map(|arg| format!(" --adapter {arg}"))
        .collect::<Vec<_>>()
        .concat();
    let what = if verb == "score" { "scoring" } else { "a conversation" };
    bail!(
        "`{}`: {what} needs a head for language modelling, found one for {}: {found}\n\
         hint: `finetune classify --model {}{adapters} --text TEXT` (or `--data FILE`) shows what it says of a text\n\
         hint: `finetune {verb}` wants a language model: take a model that was trained for language modelling",
        args.adapter
            .last()
            .map_or_else(|| args.model.clone(), |arg| arg.path.display().to_string()),
        kind.name(),
        args.model,
    )
}
