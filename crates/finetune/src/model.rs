//! Models and adapters by the names that users give them: opened, loaded, written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use checkpoint::{
    Existing, ModelDir, PeftAdapter, PeftConfig, Safetensors, SaveOptions, TensorInfo, TokenizerFiles, write_file,
    write_safetensors,
};
use data::{ChatTemplate, ChatTemplates, Dataset, ReadConfig, SpecialTokens, Tokenizer};
use decoder::{Decoder, HeadKind};
use dora::Placement;
use lora::{AdapterNames, LoraConfig};
use serde_json::{Map, Value};
use tch::Tensor;
use tensor_core::{Mix, ModulePath};

use crate::adapters::{self as chosen, AdapterArg, Adapters};
use crate::bottleneck::{self, Bottlenecks};
use crate::machine::{Machine, MachineArgs};
use crate::recipe::ModelConfig;

/// A model with, perhaps, an adapter: flags of every verb that loads one.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// A model directory, a .gguf file, a name in the local store, or a hub id
    #[arg(long, value_name = "M")]
    pub model: String,
    /// An adapter for it: PEFT's LoRA or DoRA, or bottleneck adapters; several of LoRA's are mixed as DIR=WEIGHT, or
    /// chosen by each row's key `adapter` as NAME=DIR
    #[arg(long, value_name = "DIR")]
    pub adapter: Vec<AdapterArg>,
    #[command(flatten)]
    /// What to compute on.
    pub machine: MachineArgs,
}

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
}

impl Loaded {
    /// The mix of a row that was read by [`ModelArgs::reading`]; none where rows have no choice.
    pub fn mix(&self, rows: &Dataset, idx: usize) -> Result<Option<Mix>> {
        let Some(names) = &self.adapters else { return Ok(None) };
        chosen::mix(names, rows.kept(idx, chosen::COLUMN)).map(Some)
    }
}

impl ModelArgs {
    /// Opens and loads.
    pub fn load(&self) -> Result<Loaded> {
        // What is small and often wrong comes first.
        let adapters = Adapters::open(&self.adapter)?;
        let source = Source::open(&self.model)?;
        let source = match adapters.with_templates()? {
            Some(folder) => source.with_templates_in(folder)?,
            None => source,
        };
        let tokenizer = source.tokenizer()?;
        let machine = self.machine.start()?;
        let model = source.decoder(machine)?;
        let place = || format!("model `{}`", self.model);
        let (model, adapters) = adapters.place(model).with_context(place)?;
        Ok(Loaded {
            model,
            tokenizer,
            source,
            adapters,
        })
    }

    /// How rows are read, with what chooses their adapters.
    pub fn reading(&self) -> ReadConfig {
        let keep = self.adapter.iter().any(|arg| arg.name.is_some());
        ReadConfig {
            keep: keep.then(|| chosen::COLUMN.to_owned()).into_iter().collect(),
            ..ReadConfig::default()
        }
    }
}

/// What one `--adapter` means.
#[derive(Debug)]
pub enum Attached {
    /// PEFT's LoRA or DoRA.
    Peft(Adapter),
    /// Bottleneck adapters.
    Bottlenecks(Bottlenecks),
}

impl Attached {
    /// Opens what lies in the folder `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(if bottleneck::is_in(path) {
            Self::Bottlenecks(Bottlenecks::open(path)?)
        } else {
            Self::Peft(Adapter::open(path)?)
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Peft(adapter) => adapter.path(),
            Self::Bottlenecks(adapters) => adapters.path(),
        }
    }

    /// Puts it into a model.
    pub fn place(&self, model: Decoder) -> Result<Decoder> {
        match self {
            Self::Peft(adapter) => adapter.place(model),
            Self::Bottlenecks(adapters) => adapters.place(model),
        }
    }
}

/// A model on disk.
#[derive(Debug)]
pub struct Source {
    name: String,
    dir: ModelDir,
    /// The tokenizer's files, as they are written beside what comes of this model.
    files: TokenizerFiles,
    /// Chat templates in the place of the model's own: where they come from, and each by its name.
    templates: Option<(String, BTreeMap<String, String>)>,
}

impl Source {
    /// Finds the model that `name` means.
    pub fn open(name: &str) -> Result<Self> {
        let path = checkpoint::resolve(name)?;
        let dir = ModelDir::open(&path)?;
        Ok(Self {
            name: name.to_owned(),
            files: dir.tokenizer().clone(),
            dir,
            templates: None,
        })
    }

    /// The model of a recipe, with the chat template that it names.
    pub fn of(model: &ModelConfig) -> Result<Self> {
        let source = Self::open(&model.name_or_path)?;
        match &model.chat_template {
            Some(template) => source.with_chat_template(template),
            None => Ok(source),
        }
    }

    /// With `chatml` or a Jinja file in the place of its own chat templates.
    pub fn with_chat_template(self, template: &str) -> Result<Self> {
        let text = match template {
            "chatml" => ChatTemplate::chatml()?.source().to_owned(),
            file => std::fs::read_to_string(file).with_context(|| format!("chat template `{file}` cannot be read"))?,
        };
        self.with_templates(template.to_owned(), BTreeMap::from([("default".to_owned(), text)]))
    }

    /// With the chat templates that lie beside `adapter`, if any do: what it was trained with.
    pub fn with_templates_of(self, adapter: &Adapter) -> Result<Self> {
        self.with_templates_in(adapter.path())
    }

    pub(crate) fn with_templates_in(self, adapter: &Path) -> Result<Self> {
        let templates = TokenizerFiles::in_folder(adapter)?.chat_templates()?;
        if templates.is_empty() {
            Ok(self)
        } else {
            self.with_templates(adapter.display().to_string(), templates)
        }
    }

    fn with_templates(self, place: String, templates: BTreeMap<String, String>) -> Result<Self> {
        Ok(Self {
            files: self.files.with_chat_templates(&templates)?,
            templates: Some((place, templates)),
            ..self
        })
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its files.
    pub fn dir(&self) -> &ModelDir {
        &self.dir
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = if self.dir.is_gguf() {
            self.tokenizer_of_gguf()?
        } else {
            // Says what to do where there is none.
            let place = || format!("model `{}` has no tokenizer that can be read", self.name);
            self.dir.tokenizer().tokenizer_json().with_context(place)?;
            Tokenizer::from_dir(self.dir.path())?
        };
        let Some((place, templates)) = &self.templates else {
            return Ok(tokenizer);
        };
        let compiled = templates
            .iter()
            .map(|(name, text)| Ok((name.clone(), ChatTemplate::new(place, text)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(tokenizer.with_templates(ChatTemplates::named(compiled)))
    }

    fn tokenizer_of_gguf(&self) -> Result<Tokenizer> {
        let files = self.dir.tokenizer();
        let place = || format!("tokenizer of `{}`", self.dir.path().display());
        let inner = tokenizers::Tokenizer::from_bytes(files.tokenizer_json()?)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(place)?;
        let config = files.tokenizer_config()?;
        // A token is a string, or an object with its string as `content`.
        let named = config
            .iter()
            .filter(|(name, _)| name.ends_with("_token"))
            .filter_map(|(name, value)| {
                let token = value.as_str().or_else(|| value.get("content")?.as_str())?;
                Some((name.as_str(), token))
            });
        let mut special = SpecialTokens::new(named);
        special.more_eos_ids = self
            .dir
            .config()
            .eos_token_ids
            .iter()
            .filter_map(|&id| u32::try_from(id).ok())
            .collect();
        special.add_bos = config.get("add_bos_token").and_then(Value::as_bool);
        let template = files.chat_template()?;
        Ok(Tokenizer::from_parts(inner, special, template.as_deref())?)
    }

    /// Its weights in memory, nothing of them training.
    pub fn decoder(&self, machine: Machine) -> Result<Decoder> {
        Decoder::load(&self.dir, machine.device, machine.kind).with_context(|| format!("model `{}`", self.name))
    }

    /// How a model that came of this one is written: with its tokenizer and generation options.
    pub fn options(&self, existing: Existing) -> SaveOptions<'_> {
        SaveOptions {
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
            .map(|(name, tensor)| TensorInfo {
                name: name.clone(),
                shape: tensor.size(),
                kind: tensor.kind(),
            })
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
            &self.options(Existing::Replace),
        )?;
        Ok(())
    }

    /// Writes the tokenizer's files.
    pub fn save_tokenizer(&self, folder: &Path) -> Result<()> {
        Ok(self.files.save(folder)?)
    }
}

/// Beside an adapter of a classifier: the names of its classes, which PEFT's files do not hold.
pub const LABELS: &str = "labels.json";

/// An adapter on disk, checked in itself.
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    config: LoraConfig,
    use_dora: bool,
    file: PeftAdapter,
    tensors: Vec<(String, Tensor)>,
}

impl Adapter {
    /// Opens the adapter in the folder `path`, whose weights can be merged.
    pub fn open(path: &Path) -> Result<Self> {
        if bottleneck::is_in(path) {
            return Err(adapters::Error::NotLinear).with_context(|| format!("`{}`", path.display()));
        }
        let file = PeftAdapter::open(path)?;
        let text = std::fs::read(path.join("adapter_config.json")).with_context(|| format!("`{}`", path.display()))?;
        let object: Map<String, Value> = serde_json::from_slice(&text)?;
        let (config, use_dora) = dora::from_peft_config(&object).with_context(|| format!("`{}`", path.display()))?;
        let weights = Safetensors::open(&path.join("adapter_model.safetensors"))?;
        let tensors = weights
            .names()
            .map(|name| Ok((name.to_owned(), weights.tensor(name)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            path: path.to_owned(),
            config,
            use_dora,
            file,
            tensors,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its files as PEFT means them.
    pub fn file(&self) -> &PeftAdapter {
        &self.file
    }

    /// Its options.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Whether it is DoRA's: magnitudes beside LoRA's factors.
    pub fn use_dora(&self) -> bool {
        self.use_dora
    }

    /// Its tensors, by their names in the file.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// Whether anything of it belongs to the module at `path`.
    pub fn touches(&self, path: &str) -> bool {
        self.file.tensors().any(|(module, _)| module.as_str() == path)
    }

    /// The classes of the head that it brings; none if it brings no classification head.
    pub fn labels(&self) -> Result<Option<Vec<String>>> {
        labels_of(&self.path, &self.tensors)
    }

    /// Its way into a model.
    pub fn placement(&self) -> Result<Placement> {
        let tensors = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        Ok(Placement::new(self.config.clone(), self.use_dora, tensors)?)
    }

    /// Its way into a model as one of several: of LoRA's only.
    pub fn member(&self) -> Result<lora::Placement> {
        anyhow::ensure!(
            !self.use_dora,
            "`{}`: DoRA scales whole weights, so it is not one of several updates of a base\n\
             hint: load it alone, or merge it into a model of its own",
            self.path.display()
        );
        let tensors = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        Ok(lora::Placement::new(self.config.clone(), tensors)?)
    }

    /// Puts it into a model.
    pub fn place(&self, model: Decoder) -> Result<Decoder> {
        let model = match self.labels()? {
            Some(labels) if *model.head_kind() == HeadKind::LanguageModel => {
                model.replace_head(HeadKind::Classification { labels }, 0)?
            }
            _ => model,
        };
        let placement = self.placement()?;
        let model = model
            .map_projections(&mut |at: &ModulePath, base| placement.projection(at, base))?
            .map_embedding(&mut |at: &ModulePath, base| placement.table(at, base))?
            .map_norms(&mut |at: &ModulePath, norm| {
                let gain = placement.param(&at.join("weight"), norm.weight().share())?;
                Ok(if gain.is_trainable() {
                    norm.with_trained(gain)
                } else {
                    norm
                })
            })?;
        placement.finish()?;
        Ok(model)
    }
}

/// The classes of the head among an adapter's tensors; none if there is no classification head.
pub(crate) fn labels_of(folder: &Path, tensors: &[(String, Tensor)]) -> Result<Option<Vec<String>>> {
    let score = tensors.iter().find(|(name, _)| name.ends_with("score.weight"));
    let Some((_, score)) = score else { return Ok(None) };
    let count = score.size()[0] as usize;
    let path = folder.join(LABELS);
    if !path.is_file() {
        return Ok(Some((0..count).map(|label| format!("LABEL_{label}")).collect()));
    }
    let place = || format!("`{}`", path.display());
    let labels: Vec<String> = serde_json::from_slice(&std::fs::read(&path).with_context(place)?).with_context(place)?;
    anyhow::ensure!(
        labels.len() == count,
        "{}: wanted {count} labels, found {}",
        place(),
        labels.len()
    );
    Ok(Some(labels))
}

/// Writes an adapter as PEFT writes it.
pub fn save_adapter(folder: &Path, config: Map<String, Value>, tensors: &[(String, Tensor)]) -> Result<()> {
    let config: PeftConfig = serde_json::from_value(Value::Object(config)).context("an adapter's configuration")?;
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let infos: Vec<TensorInfo> = sorted
        .iter()
        .map(|(name, tensor)| TensorInfo {
            name: name.clone(),
            shape: tensor.size(),
            kind: tensor.kind(),
        })
        .collect();
    write_safetensors(&folder.join("adapter_model.safetensors"), &infos, |info| {
        let found = sorted.iter().find(|(name, _)| *name == info.name);
        found
            .map(|(_, tensor)| tensor.shallow_clone())
            .ok_or_else(|| format!("no tensor `{}`", info.name).into())
    })?;
    write_file(&folder.join("adapter_config.json"), config.to_json().as_bytes())?;
    Ok(())
}
