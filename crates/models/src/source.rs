//! Models and adapters by the names that users give them: opened, loaded, written.

mod prompt_format;
mod tokens;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use checkpoint::{Existing, ModelDir, SaveOptions, TensorInfo, TokenizerFiles};
use data::{ChatTemplate, ChatTemplates, Tokenizer};
use decoder::{Decoder, ExpertsSource, Sources, projection_paths};
use events::Events;
pub use prompt_format::PromptFormat;
use quant::Quantizing;
use serde_json::{Map, Value};
use tensor_core::ProjectionSurgeon;
pub use tokens::templates_in;

use crate::experts::RouterOptions;
use crate::machine::Machine;
use crate::provenance::{self, Base};
use crate::quantised::Quantisation;

/// A model on disk.
#[derive(Debug)]
pub struct Source {
    name: String,
    /// Its configurations name every token that ends a text, whichever file or template says so.
    dir: ModelDir,
    /// The tokenizer's files, as they are written beside what comes of this model.
    files: TokenizerFiles,
    /// Its tokenizer, or why there is none.
    tokenizer: Result<Tokenizer, String>,
    /// How prompts were given to it in training, if that is known.
    prompt_format: Option<PromptFormat>,
    /// What it is, once that was asked.
    base: OnceLock<Base>,
    /// What stands beside what is made of it, if a run says more than its base.
    provenance: OnceLock<Map<String, Value>>,
    /// Whoever is told what there is to say of it.
    events: Events,
}

impl Source {
    /// Finds the model that `name` means.
    pub fn open(name: &str, events: &Events) -> Result<Self> {
        let path = checkpoint::resolve(name)?;
        let dir = ModelDir::open(&path)?;
        for remark in dir.remarks() {
            events.warn(|| format!("model `{name}`: {remark}"));
        }
        let files = dir.tokenizer().clone();
        let tokenizer = tokens::read(name, &dir);
        let source = Self {
            name: name.to_owned(),
            prompt_format: PromptFormat::in_files(&files)?,
            tokenizer: tokenizer.map_err(|error| format!("{error:#}")),
            dir,
            files,
            base: OnceLock::new(),
            provenance: OnceLock::new(),
            events: events.clone(),
        };
        Ok(source.with_all_end_tokens())
    }

    /// Finds the model that `name` means; a hub id at `revision`, a branch, a tag or a commit, if one is given.
    pub fn open_at(name: &str, revision: Option<&str>, events: &Events) -> Result<Self> {
        let Some(revision) = revision else {
            return Self::open(name, events);
        };
        ensure!(
            checkpoint::is_hub_id(name) && !Path::new(name).exists(),
            "`revision`: wanted a hub id (`org/name`), which has revisions, found `{name}`\n\
             hint: leave `revision` out; a folder is what it is, and its hash is kept with the run"
        );
        let source = Self::open(&format!("{name}@{revision}"), events)?;
        Ok(Self {
            name: name.to_owned(),
            ..source
        })
    }

    /// What it is: name, revision, hash of its tensors. Read once.
    pub fn base(&self) -> Result<&Base> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let base = Base::of(self)?;
        Ok(self.base.get_or_init(|| base))
    }

    /// What shall stand beside whatever is made of it from now on.
    pub fn describe(&self, provenance: Map<String, Value>) {
        let _ = self.provenance.set(provenance);
    }

    /// What stands beside what `verb` makes of it.
    pub fn provenance(&self, verb: &str) -> Option<Map<String, Value>> {
        let of_base = || Some(provenance::made_of(self.base().ok()?, verb));
        self.provenance.get().cloned().or_else(of_base)
    }

    /// With `chatml` or a Jinja file in the place of its own chat templates.
    pub fn with_chat_template(self, template: &str) -> Result<Self> {
        let text = match template {
            "chatml" => ChatTemplate::chatml()?.source().to_owned(),
            file => std::fs::read_to_string(file).with_context(|| format!("chat template `{file}` cannot be read"))?,
        };
        self.with_templates(template, &BTreeMap::from([("default".to_owned(), text)]))
    }

    /// With what the adapter in this folder was trained with, where the folder says: the chat templates, and how prompts were given.
    pub fn with_templates_of(self, adapter: &Path) -> Result<Self> {
        provenance::tell_other_base(adapter, &self)?;
        self.with_templates_in(adapter)?.with_prompt_format_in(adapter)
    }

    /// With the chat templates that lie in an adapter's folder, if any do.
    pub fn with_templates_in(self, adapter: &Path) -> Result<Self> {
        let templates = tokens::templates_in(adapter)?;
        if templates.is_empty() {
            Ok(self)
        } else {
            self.with_templates(&adapter.display().to_string(), &templates)
        }
    }

    fn with_templates(self, place: &str, templates: &BTreeMap<String, String>) -> Result<Self> {
        let compiled = templates
            .iter()
            .map(|(name, text)| Ok((name.clone(), ChatTemplate::new(place, text)?)))
            .collect::<Result<Vec<_>>>()?;
        let source = Self {
            files: self.files.with_chat_templates(templates)?,
            tokenizer: self
                .tokenizer
                .map(|tokenizer| tokenizer.with_templates(ChatTemplates::named(compiled))),
            ..self
        };
        Ok(source.with_all_end_tokens())
    }

    /// Whoever is told what there is to say of it, and of what is made of it.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its files.
    pub fn dir(&self) -> &ModelDir {
        &self.dir
    }

    /// Its weights in memory, nothing of them training.
    pub fn decoder(&self, machine: Machine) -> Result<Decoder> {
        self.decoder_with(machine, &mut |_, projection| Ok(projection))
    }

    /// As [`Self::decoder`], with the weights packed as `packing` says, one by one as they are read.
    pub fn decoder_packed(&self, machine: Machine, packing: Option<&Quantisation>) -> Result<Decoder> {
        let Some(packing) = packing else {
            return self.decoder(machine);
        };
        let quantizing = Quantizing::choose(packing.config.clone(), &projection_paths(self.dir.config()))?;
        self.decoder_with(machine, &mut |at, base| match quantizing.contains(at) {
            true => packing.projection(self, at, machine),
            false => Ok(base),
        })
    }

    /// The name of the tensor in the files that `name` is: a tied output layer is the embedding.
    pub fn stored(&self, name: &str) -> String {
        let is_tied = self.dir.config().tie_word_embeddings && name == "lm_head.weight";
        let stored = if is_tied { "model.embed_tokens.weight" } else { name };
        stored.to_owned()
    }

    /// As [`Self::decoder`], with every projection given to `surgeon` as it is read.
    pub fn decoder_with(&self, machine: Machine, surgeon: &mut ProjectionSurgeon) -> Result<Decoder> {
        self.decoder_routed(machine, &RouterOptions::default(), surgeon)
    }

    /// As [`Self::decoder_with`], with experts chosen and balanced as `router` says.
    pub fn decoder_routed(
        &self,
        machine: Machine,
        router: &RouterOptions,
        surgeon: &mut ProjectionSurgeon,
    ) -> Result<Decoder> {
        self.decoder_made(machine, surgeon, &mut |slots| router.experts(slots))
    }

    /// As [`Self::decoder_with`], with mixtures of experts made by `experts`.
    pub fn decoder_made(
        &self,
        machine: Machine,
        surgeon: &mut ProjectionSurgeon,
        experts: &mut ExpertsSource,
    ) -> Result<Decoder> {
        let sources = Sources {
            projections: &mut |at| crate::quantised::projection(&self.dir, at, machine),
            experts,
        };
        Decoder::load_mixture(&self.dir, machine.device, machine.kind, sources, surgeon)
            .with_context(|| format!("model `{}`", self.name))
    }

    /// How a model that `verb` made of this one is written: with its tokenizer, generation options and provenance.
    pub fn options(&self, existing: Existing, verb: &str) -> SaveOptions<'_> {
        SaveOptions {
            provenance: self.provenance(verb),
            tokenizer: Some(&self.files),
            generation_config: self.dir.generation_config(),
            existing,
            ..SaveOptions::default()
        }
    }

    /// Writes `model`, which came of this one, as a model directory.
    pub fn save_model(&self, folder: &Path, model: &Decoder) -> Result<()> {
        let tensors = model.named_tensors()?;
        let infos: Vec<TensorInfo> = tensors
            .iter()
            .map(|(name, tensor)| TensorInfo::of(name, tensor))
            .collect();
        let of = |info: &TensorInfo| {
            let found = tensors.iter().find(|(name, _)| *name == info.name);
            found
                .map(|(_, tensor)| tensor.to_device(tch::Device::Cpu))
                .ok_or_else(|| format!("no tensor `{}`", info.name).into())
        };
        checkpoint::save_model(
            folder,
            &model.saved_config(),
            &infos,
            of,
            &self.options(Existing::Replace, "train"),
        )?;
        Ok(())
    }

    /// Writes the tokenizer's files.
    pub fn save_tokenizer(&self, folder: &Path) -> Result<()> {
        Ok(self.files.save(folder)?)
    }
}
