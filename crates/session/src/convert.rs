//! A model to a model directory, one tensor in memory at a time, with or without an adapter put into its weights.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context as _, Result};
use checkpoint::{Existing, ModelConfig, Output, SaveOptions, TensorInfo};
use events::Events;
use methods::peft::LABELS;
use methods::{Attached, Merging};
use models::Source;
use models::provenance;
use models::quantised::{Against, Lost, Quantisation};
use models::zeros;
use prune::Mask;
use quant::Quantizing;
use tch::{Device, Kind, Tensor};
use tensor_core::{Dense, ModulePath, Param, Projection, Role, Table};

/// What is written, and how.
pub struct Conversion<'a> {
    /// The model.
    pub source: &'a Source,
    /// What is put into its weights.
    pub adapter: Option<&'a dyn Attached>,
    /// The dtype of what is written; each tensor's own (f32 for quantised ones) if none.
    pub dtype: Option<Kind>,
    /// Where products are computed.
    pub device: Device,
    /// What becomes of a model that is there already.
    pub existing: Existing,
    /// Who writes it: stands in its provenance.
    pub verb: &'static str,
    /// What is put under an adapter that was trained over packed weights; what it says itself if none.
    pub against: Option<Against>,
    /// Whether what is zero in the model's pruned matrices stays zero, also under an adapter that does not say so itself.
    pub keep_zeros: bool,
}

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    /// What packing did to each weight that went through it, in the order of the file.
    pub lost: Vec<(ModulePath, Lost)>,
}

impl Written {
    /// Says what packing has cost; nothing if nothing was packed.
    pub fn tell(&self, events: &Events) {
        let relative = |(module, lost): &(ModulePath, Lost)| (lost.relative(), module.clone());
        let most = self.lost.iter().map(relative).max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((most, module)) = most else { return };
        let whole = self.lost.iter().fold(Lost::default(), |sum, (_, lost)| sum.and(*lost));
        events.note(|| format!(
            "merged into dequantised weights: packing had changed {} of them by {:.2} % (relative root mean square), at most \
             by {:.2} % at `{module}`\nhint: `--against dense` takes the weights from before",
            self.lost.len(),
            100.0 * whole.relative(),
            100.0 * most,
        ));
    }
}

impl Conversion<'_> {
    /// Writes it into `folder`.
    pub fn write(&self, folder: &Path) -> Result<Written> {
        let dir = self.source.dir();
        let merging = self.adapter.map(Attached::merging).transpose()?;
        let mut config = self.config(merging.as_deref())?;
        let folders: Vec<&Path> = self.adapter.iter().map(|adapter| adapter.path()).collect();
        let through = Quantisation::under(&folders, self.source, self.against)?;
        let quantizing = match &through {
            Some(through) => {
                let paths = decoder::projection_paths(dir.config());
                Some((through, Quantizing::choose(through.config.clone(), &paths)?))
            }
            None => None,
        };
        // A head that was packed is no longer the embedding that it was tied to.
        let packs_head = quantizing
            .as_ref()
            .is_some_and(|(_, quantizing)| quantizing.contains(&ModulePath::from("lm_head")));
        if packs_head && config.tie_word_embeddings {
            config = config.with_tied_embeddings(false);
        }
        // Weights that were packed had this dtype, so nothing is gained by a longer one.
        let dtype = self
            .dtype
            .or(through.as_ref().map(|through| through.dtype.kind(self.device)));
        let written = RefCell::new(Written::default());
        let mut infos = Vec::new();
        for (name, shape) in config.tensors() {
            let stored = self.source.stored(&name);
            let kind = if dir.contains(&stored) {
                dir.info(&stored)?.kind
            } else {
                Kind::Float
            };
            infos.push(TensorInfo {
                name,
                shape,
                kind: dtype.unwrap_or(kind),
            });
        }
        let work = self.source.events().begin("tensors", infos.len());
        let make = |info: &TensorInfo| -> Result<Tensor> {
            work.advance(1);
            let stored = self.source.stored(&info.name);
            let base = if dir.contains(&stored) {
                dir.tensor(&stored)?
            } else {
                Tensor::zeros(&info.shape, (Kind::Float, Device::Cpu))
            };
            let at = ModulePath::from(module(&info.name));
            let base = match &quantizing {
                Some((through, quantizing)) if base.dim() == 2 && quantizing.contains(&at) => {
                    let packed = through.applied(&base).with_context(|| format!("`{at}`"))?;
                    let lost = Lost::between(&base, &packed);
                    written.borrow_mut().lost.push((at, lost));
                    packed
                }
                _ => base,
            };
            let made = match &merging {
                None => base,
                Some(merging) => {
                    // In f32 until the end, so that the sum is rounded once, to the dtype that is written.
                    let wide = match base.kind() {
                        Kind::Half | Kind::BFloat16 => base.to_kind(Kind::Float),
                        _ => base.shallow_clone(),
                    };
                    let made = merged(&**merging, &info.name, &wide.to_device(self.device))?;
                    let keeps_zeros = self.keep_zeros || merging.keeps_zeros();
                    match keeps_zeros.then(|| pruned(&info.name, &base)).flatten() {
                        Some(mask) => mask.apply(&made),
                        None => made,
                    }
                }
            };
            Ok(made.to_device(Device::Cpu).to_kind(info.kind).contiguous())
        };
        let mut options = SaveOptions {
            dtype,
            ..self.source.options(self.existing, self.verb)
        };
        if let (Some(provenance), Some(adapter)) = (&mut options.provenance, self.adapter) {
            provenance.insert("adapter".into(), provenance::adapter(adapter.path())?);
        }
        let tensor = |info: &TensorInfo| make(info).map_err(|error| format!("{error:#}").into());
        // What finds no place is refused before anything is written.
        if let Some(adapter) = self.adapter {
            let merging = adapter.merging()?;
            adapter.tell(self.source.events());
            check(&*merging, &infos).with_context(|| format!("adapter `{}`", adapter.path().display()))?;
        }
        checkpoint::save_model(folder, &config, &infos, tensor, &options)?;
        drop(work);
        Ok(written.into_inner())
    }

    /// The configuration of what is written: a head that the adapter brings, and tying that it undoes.
    fn config(&self, merging: Option<&dyn Merging>) -> Result<ModelConfig> {
        // What is written is dense, however it was read.
        let mut config = self.source.dir().config().clone().without_quantisation();
        let (Some(adapter), Some(merging)) = (self.adapter, merging) else {
            return Ok(config);
        };
        if let Some(labels) = merging.labels()? {
            // A classifier's own names stay where the adapter brings none.
            let is_named = config.output == Output::SequenceClassifier && config.labels.len() == labels.len();
            let keeps = is_named && !adapter.path().join(LABELS).is_file();
            return Ok(if keeps { config } else { config.with_labels(labels) });
        }
        if config.tie_word_embeddings && (merging.touches("lm_head") || merging.touches("model.embed_tokens")) {
            config = config.with_tied_embeddings(false);
        }
        Ok(config)
    }
}

/// An adapter's modules are all among those written, in their shapes.
fn check(merging: &dyn Merging, infos: &[TensorInfo]) -> Result<()> {
    for info in infos.iter().filter(|info| merging.touches(module(&info.name))) {
        // A tensor of that shape that takes no memory.
        let base = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand(&info.shape, false);
        wrapped(merging, &info.name, &base)?;
    }
    merging.finish()
}

/// The tensor `name` with the adapter's update in it, summed in f32.
fn merged(placement: &dyn Merging, name: &str, base: &Tensor) -> Result<Tensor> {
    let at = ModulePath::from(module(name));
    if name == "model.embed_tokens.weight" {
        let table = placement.table(
            &at,
            Box::new(Table::new(Param::frozen(base.shallow_clone(), Role::Embedding))),
        )?;
        return Ok(table.merge().into_param().value().detach());
    }
    if name.ends_with(".weight") && base.dim() == 2 {
        let dense = Dense::new(Param::frozen(base.shallow_clone(), Role::Base));
        return Ok(placement
            .projection(&at, Box::new(dense))?
            .merge()
            .into_param()
            .value()
            .detach());
    }
    let param = placement.param(&ModulePath::from(name), Param::frozen(base.shallow_clone(), Role::Norm))?;
    Ok(param.value().detach())
}

/// The mask of a pruned matrix of the blocks.
fn pruned(name: &str, base: &Tensor) -> Option<Mask> {
    let is_matrix = ModulePath::from(name).layer_idx().is_some() && base.dim() == 2;
    is_matrix.then(|| zeros::mask_of(base)).flatten()
}

/// Puts the adapter's part over `base` and drops the result.
fn wrapped(placement: &dyn Merging, name: &str, base: &Tensor) -> Result<()> {
    let at = ModulePath::from(module(name));
    if name == "model.embed_tokens.weight" {
        placement.table(
            &at,
            Box::new(Table::new(Param::frozen(base.shallow_clone(), Role::Embedding))),
        )?;
    } else if name.ends_with(".weight") && base.dim() == 2 {
        let dense: Box<dyn Projection> = Box::new(Dense::new(Param::frozen(base.shallow_clone(), Role::Base)));
        placement.projection(&at, dense)?;
    } else {
        placement.param(&ModulePath::from(name), Param::frozen(base.shallow_clone(), Role::Norm))?;
    }
    Ok(())
}

/// The module that a tensor belongs to.
fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}
