//! A model in memory, with its adapters, ready to answer.

use anyhow::Result;
use data::{Dataset, Tokenizer};
use decoder::Decoder;
use events::Events;
use lora::AdapterNames;
use models::machine::Machine;
use models::prompts::Form;
use models::quantised::{Against, Quantisation};
use models::{Source, provenance};
use tensor_core::AdapterRouting;

use crate::adapters::{self, AdapterArg, Adapters};

/// A model in memory, ready to answer.
#[derive(Debug)]
pub struct Loaded {
    /// The model, its adapter placed.
    pub model: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Where it came from.
    pub source: Source,
    /// The adapters in it that rows may choose among.
    pub adapters: Option<AdapterNames>,
    /// How it is given prompts that are plain texts, where that is settled.
    pub form: Option<Form>,
}

impl Loaded {
    /// The mix of a row that was read by [`adapters::reading`]; none where rows have no choice.
    pub fn mix(&self, rows: &Dataset, idx: usize) -> Result<Option<AdapterRouting>> {
        let Some(names) = &self.adapters else { return Ok(None) };
        adapters::mix(names, rows.kept(idx, adapters::COLUMN)).map(Some)
    }
}

/// A model and its adapters on disk, opened and checked: what is small and often wrong is found before weights are read.
#[derive(Debug)]
pub struct Opened {
    source: Source,
    tokenizer: Tokenizer,
    adapters: Adapters,
    packing: Option<Quantisation>,
    /// Whether rows may choose among the adapters by their names.
    has_choice: bool,
}

impl Opened {
    /// The model that `name` means, at `revision` if it is a hub id, with these adapters over the weights that `against`
    /// says. What there is to say of them is told to `events`.
    pub fn new(
        name: &str,
        revision: Option<&str>,
        args: &[AdapterArg],
        against: Option<Against>,
        events: &Events,
    ) -> Result<Self> {
        let adapters = Adapters::open(args)?;
        let source = Source::open_at(name, revision, events)?;
        for arg in args {
            provenance::tell_other_base(&arg.path, &source)?;
        }
        let source = match adapters.with_templates()? {
            Some(folder) => source.with_templates_in(folder)?,
            None => source,
        };
        let source = source.with_prompt_format(adapters.prompt_format()?);
        Ok(Self {
            tokenizer: source.tokenizer()?,
            packing: Quantisation::under(&adapters.folders(), &source, against)?,
            // Adapters that are mixed by weights leave rows no choice.
            has_choice: args.iter().any(|arg| arg.name.is_some()),
            source,
            adapters,
        })
    }

    /// Reads the weights.
    pub fn load(self, machine: Machine) -> Result<Loaded> {
        let model = self.source.decoder_packed(machine, self.packing.as_ref())?;
        let (model, names) = self.adapters.place(model, self.source.name(), self.source.events())?;
        Ok(Loaded {
            model,
            tokenizer: self.tokenizer,
            source: self.source,
            adapters: names.filter(|_| self.has_choice),
            form: None,
        })
    }
}
