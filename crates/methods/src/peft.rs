//! PEFT's LoRA and DoRA adapters on disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::{InitLoraWeights, PeftAdapter, PeftConfig, PeftPart, Safetensors, finite, write_file, write_tensors};
use decoder::{Decoder, HeadKind};
use dora::Placement;
use lora::LoraConfig;
use models::zeros::{self, Zeros};
use serde_json::{Map, Value};
use tch::Tensor;
use tensor_core::ModulePath;

use crate as methods;
use crate::missing::refuse_missing;

/// Beside an adapter of a classifier: the names of its classes, which PEFT's files do not hold.
pub const LABELS: &str = "labels.json";

/// An adapter on disk, checked in itself.
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    config: LoraConfig,
    use_dora: bool,
    keeps_zeros: bool,
    file: PeftAdapter,
    tensors: Vec<(String, Tensor)>,
    remarks: Vec<String>,
    /// Paths of the modules that it holds anything of.
    modules: BTreeSet<String>,
}

/// Parts of the names of modules that read pictures.
const VISION: [&str; 2] = [".vision_tower.", ".multi_modal_projector."];

impl Adapter {
    /// Opens the adapter in the folder `path`.
    pub fn open(path: &Path) -> Result<Self> {
        refuse_missing(path)?;
        if let Some(other) = methods::format_of(path).filter(|_| methods::peft_type(path).as_deref() != Some("LORA")) {
            let place = || format!("`{}`", path.display());
            (other.open)(path)?.merging().with_context(place)?;
            bail!(
                "{}: wanted LoRA or DoRA in PEFT's files, found {}\nhint: `finetune merge` writes it into a model",
                place(),
                other.name
            );
        }
        let file = PeftAdapter::open(path)?;
        let place = || format!("adapter `{}`", path.display());
        let (config, idle) = lora::of_saved(file.config(), file.named_modules()).with_context(place)?;
        let weights = Safetensors::open(&path.join("adapter_model.safetensors"))?;
        let (mut tensors, mut remarks) = (Vec::new(), remarks(file.config(), &idle));
        let mut num_pictures = 0;
        for name in weights.names() {
            if VISION.iter().any(|part| name.contains(part)) {
                num_pictures += 1;
                continue;
            }
            tensors.push((name.to_owned(), weights.tensor(name)?));
        }
        if num_pictures > 0 {
            remarks.push(format!(
                "{num_pictures} tensors of the vision tower are left out: texts alone are read and written here"
            ));
        }
        let adapter = Self {
            path: path.to_owned(),
            config,
            use_dora: file.config().use_dora,
            keeps_zeros: file.config().other.get(zeros::KEY) == Some(&Value::Bool(true)),
            file,
            modules: tensors
                .iter()
                .filter_map(|(name, _)| Some(PeftPart::of(name)?.0.to_string()))
                .collect(),
            tensors,
            remarks,
        };
        // Ranks and scales that the two files do not agree on are found before a model is read.
        adapter.placement().with_context(place)?;
        Ok(adapter)
    }

    /// What its user has to know: what was not understood, or cannot be had exactly.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
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

    /// Whether the zeros of its pruned base stay under it.
    pub fn keeps_zeros(&self) -> bool {
        self.keeps_zeros
    }

    /// Its tensors, by their names in the file.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// Whether anything of it belongs to the module at `path`.
    pub fn touches(&self, path: &str) -> bool {
        self.modules.contains(path)
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
        anyhow::ensure!(
            !self.keeps_zeros,
            "`{}`: it was trained under its base's zeros, which other updates would fill in\n\
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
        let place = || format!("adapter `{}`", self.path.display());
        let (model, zeros) = match self.keeps_zeros {
            true => Zeros::of(model)
                .map(|(model, zeros)| (model, Some(zeros)))
                .with_context(place)?,
            false => (model, None),
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
        match zeros {
            Some(zeros) => zeros.keep(model).with_context(place),
            None => Ok(model),
        }
    }
}

/// The classes of the head among an adapter's tensors; none if there is no classification head.
pub fn labels_of(folder: &Path, tensors: &[(String, Tensor)]) -> Result<Option<Vec<String>>> {
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

/// What is to be said of an adapter with this configuration; `idle`: keys of its patterns that match none of its modules.
fn remarks(config: &PeftConfig, idle: &[String]) -> Vec<String> {
    let mut remarks: Vec<String> = idle
        .iter()
        .map(|key| format!("{key} matches none of its modules and changes nothing\nhint: if it is misspelt, the module that was meant has another scale than was wanted, in PEFT too"))
        .collect();
    if config.lora_alpha == 0.0 {
        remarks.push("`lora_alpha` is 0: the update is scaled by it, so the adapter changes nothing".into());
    }
    if let InitLoraWeights::Named(name) = &config.init_lora_weights {
        if name.starts_with("pissa_niter_") {
            remarks.push(format!(
                "`init_lora_weights` = \"{name}\": PEFT took a randomly started approximation out of the base, which the file does not hold; the exact \
                 decomposition is taken out here (PEFT's own numbers differ from one load to the next)\n\
                 hint: convert it where it was trained: `save_pretrained(folder, path_initial_model_for_weight_conversion=…)`"
            ));
        }
        if name.eq_ignore_ascii_case("lora_ga") {
            remarks.push(
                "`init_lora_weights` = \"lora_ga\": training changed the base by gradients that the file does not hold; as in PEFT, the base is taken as it is\n\
                 hint: convert it where it was trained: `save_pretrained(folder, path_initial_model_for_weight_conversion=…)`"
                    .into(),
            );
        }
    }
    remarks
}

/// Writes an adapter as PEFT writes it; an error if it would not be read back, or holds what is no number.
pub fn save_adapter(folder: &Path, config: Map<String, Value>, tensors: &[(String, Tensor)]) -> Result<()> {
    let config = PeftConfig::from_object(&folder.join("adapter_config.json"), config)?;
    let shared = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
    let modules: Vec<ModulePath> = tensors
        .iter()
        .filter_map(|(name, _)| match PeftPart::of(name)? {
            (at, PeftPart::A | PeftPart::EmbeddingA) => Some(at),
            _ => None,
        })
        .collect();
    let named = |at: &ModulePath| {
        let is_wrapped = tensors.iter().any(|(name, _)| name.contains(".model.language_model."));
        if is_wrapped {
            PeftAdapter::wrapped_name(at)
        } else {
            at.clone()
        }
    };
    let (read, idle) = lora::of_saved(&config, modules.iter().map(|at| (at, named(at))))?;
    ensure!(
        idle.is_empty(),
        "`{}`: {} would match no module of the adapter that is written",
        folder.display(),
        idle.join(", ")
    );
    Placement::new(read, config.use_dora, shared).context("the adapter that is to be written")?;
    for (name, tensor) in tensors {
        finite(name, tensor)?;
    }
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_tensors(&folder.join("adapter_model.safetensors"), named)?;
    write_file(&folder.join("adapter_config.json"), config.to_json().as_bytes())?;
    Ok(())
}
