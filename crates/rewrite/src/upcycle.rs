//! A mixture of experts from a dense model, or from several tuned copies of one.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use checkpoint::{Existing, ExpertsConfig, ModelConfig, SaveOptions, TensorInfo};
use models::Source;
use moe::{Part, UpcycleConfig};
use tch::{Kind, Tensor};
use tensor_core::ModulePath;

/// Weights that are no expert's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Rest {
    /// The mean of the copies'
    Average,
    /// The model's
    Base,
}

/// Refuses a copy that is not of the same shapes.
pub fn fits(base: &Source, copy: &Source) -> Result<()> {
    let of = |source: &Source| {
        let mut tensors = source.dir().config().tensors();
        tensors.retain(|(name, _)| name != "lm_head.weight");
        tensors
    };
    let (wanted, found) = (of(base), of(copy));
    let differs = wanted.iter().zip(&found).find(|(wanted, found)| wanted != found);
    if let Some((wanted, found)) = differs {
        bail!(
            "`--expert {}`: wanted `{}` of shape {:?} as in `{}`, found `{}` of {:?}\nhint: experts are tuned copies of the one model",
            copy.name(),
            wanted.0,
            wanted.1,
            base.name(),
            found.0,
            found.1,
        );
    }
    if wanted.len() != found.len() || base.dir().config().family != copy.dir().config().family {
        bail!(
            "`--expert {}`: wanted a {} of {} tensors as `{}` is, found a {} of {}\nhint: experts are tuned copies of the one model",
            copy.name(),
            base.dir().config().family.name(),
            wanted.len(),
            base.name(),
            copy.dir().config().family.name(),
            found.len(),
        );
    }
    Ok(())
}

/// A mixture in the making.
pub struct Upcycling<'a> {
    /// The dense model.
    pub base: &'a Source,
    /// Tuned copies of it, whose feed-forwards become experts; none for its own.
    pub copies: &'a [Source],
    /// What the mixture calls its parts.
    pub experts: ExpertsConfig,
    /// How many experts, and how they differ.
    pub config: UpcycleConfig,
    /// Where weights outside the experts come from.
    pub rest: Rest,
}

/// What a tensor of the mixture is made of.
enum Origin {
    /// A new router.
    Router { at: ModulePath },
    /// A matrix of an expert, and the dense tensor that it comes from.
    Expert {
        at: ModulePath,
        idx: usize,
        part: Part,
        dense: String,
    },
    /// The tensor of the same name.
    Same,
}

impl Upcycling<'_> {
    /// Writes the mixture, whose configuration is `sparse`, into `folder`, one tensor in memory at a time; in `dtype`, or
    /// each tensor in its own.
    pub fn write(&self, folder: &Path, sparse: &ModelConfig, dtype: Option<Kind>) -> Result<()> {
        let infos = self.infos(sparse, dtype)?;
        let work = self.base.events().begin("tensors", infos.len());
        let make = |info: &TensorInfo| {
            work.advance(1);
            let made = self.tensor(info).map_err(|error| format!("{error:#}"))?;
            Ok(made.to_kind(info.kind).contiguous())
        };
        let options = SaveOptions {
            dtype,
            ..self.base.options(Existing::Refuse, "upcycle")
        };
        Ok(checkpoint::save_model(folder, sparse, &infos, make, &options)?)
    }

    fn infos(&self, sparse: &ModelConfig, dtype: Option<Kind>) -> Result<Vec<TensorInfo>> {
        let tensors = sparse.tensors().into_iter();
        let infos = tensors.map(|(name, shape)| {
            let like = match self.origin(&name)? {
                Origin::Router { at } => self.dense_name(&at, Part::Gate),
                Origin::Expert { dense, .. } => dense,
                Origin::Same => name.clone(),
            };
            let kind = match dtype {
                Some(kind) => kind,
                // Packed weights become dense ones.
                None => match self.base.dir().info(&like)?.kind {
                    kind @ (Kind::Float | Kind::BFloat16 | Kind::Half) => kind,
                    _ => Kind::Float,
                },
            };
            Ok(TensorInfo { name, shape, kind })
        });
        infos.collect()
    }

    fn dense_name(&self, at: &ModulePath, part: Part) -> String {
        let block = at.as_str().trim_end_matches(self.experts.names.sublayer());
        format!("{block}mlp.{}.weight", part.dense_name())
    }

    fn origin(&self, name: &str) -> Result<Origin> {
        let sublayer = self.experts.names.sublayer();
        let Some((block, inside)) = name.split_once(&format!(".{sublayer}.")) else {
            return Ok(Origin::Same);
        };
        let at = ModulePath::from(block).join(sublayer);
        if inside == "gate.weight" {
            return Ok(Origin::Router { at });
        }
        let names = self.experts.names.projections();
        let parts: Vec<&str> = inside.split('.').collect();
        let &["experts", idx, matrix, "weight"] = parts.as_slice() else {
            bail!("`{name}` has no place in a mixture of experts");
        };
        let part = names.iter().position(|name| *name == matrix);
        let part = Part::ALL[part.with_context(|| format!("`{name}` is no matrix of an expert"))?];
        let dense = self.dense_name(&at, part);
        let at = at.join("experts").join(idx);
        let idx = idx.parse()?;
        Ok(Origin::Expert { at, idx, part, dense })
    }

    fn tensor(&self, info: &TensorInfo) -> Result<Tensor> {
        match self.origin(&info.name)? {
            Origin::Router { at } => Ok(self.config.router(&at, info.shape[1])),
            Origin::Expert { at, idx, part, dense } => {
                let of = match self.copies.len() {
                    0 => self.base,
                    count => &self.copies[idx % count],
                };
                let weight = of.dir().tensor_as(&dense, Kind::Float)?;
                Ok(self.config.matrix(&at, part, &weight))
            }
            Origin::Same if self.copies.is_empty() || self.rest == Rest::Base => {
                Ok(self.base.dir().tensor(&info.name)?)
            }
            Origin::Same => {
                let mut sum = Tensor::zeros(info.shape.as_slice(), (Kind::Float, tch::Device::Cpu));
                for copy in self.copies {
                    let tied = info.name == "lm_head.weight" && copy.dir().config().tie_word_embeddings;
                    let name = if tied { "model.embed_tokens.weight" } else { &info.name };
                    sum += copy.dir().tensor_as(name, Kind::Float)?;
                }
                Ok(sum / self.copies.len() as f64)
            }
        }
    }
}
