//! From options to surgery: what is done to each slot of a model.

use std::collections::BTreeSet;
use std::fmt;

use tch::{Kind, Tensor};
use tensor_core::{Dense, Embedding, Error as CoreError, Found, ModulePath, Param, Parameters, Projection};

use crate::idle;
use crate::{Error, FullTable, FullUpdate, Init, Lora, LoraConfig, LoraEmbedding, LowRank, Result};

/// A choice of modules and what is done to them: hand its two surgeons to the model.
pub struct Wrapping<'a> {
    config: LoraConfig,
    chosen: BTreeSet<ModulePath>,
    whole: BTreeSet<ModulePath>,
    originals: Option<Box<Originals<'a>>>,
}

impl fmt::Debug for Wrapping<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapping")
            .field("config", &self.config)
            .field("chosen", &self.chosen)
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}

/// The weight of a module as it was before it was quantised.
pub type Originals<'a> = dyn Fn(&ModulePath) -> tensor_core::Result<Tensor> + 'a;

impl<'a> Wrapping<'a> {
    /// Chooses among the model's projections and tables: `paths` with a mark at the output layer and at tables.
    ///
    /// `all-linear` takes projections only; a table (`model.embed_tokens`) is taken where it is named.
    pub fn choose(config: LoraConfig, projections: &[(ModulePath, bool)], tables: &[ModulePath]) -> Result<Self> {
        let modules = config.modules()?;
        let all = projections
            .iter()
            .map(|(path, output)| (path, *output))
            .chain(tables.iter().map(|path| (path, true)));
        let whole: BTreeSet<_> = all
            .clone()
            .filter(|(path, _)| config.is_saved_whole(path))
            .map(|(path, _)| path.clone())
            .collect();
        for name in &config.modules_to_save {
            if !whole
                .iter()
                .any(|path| path.as_str() == name || path.as_str().ends_with(&format!(".{name}")))
            {
                let hint = all
                    .clone()
                    .map(|(path, _)| path.name())
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect::<Vec<_>>()
                    .join(", ");
                let what = format!("`{name}` in `modules_to_save`");
                return Err(CoreError::NoMatch {
                    what,
                    hint: format!("this model has {hint}"),
                }
                .into());
            }
        }
        let chosen: BTreeSet<ModulePath> = modules
            .choose(all.clone())?
            .into_iter()
            .filter(|path| !whole.contains(path))
            .collect();
        idle::refuse(&config, &all.collect::<Vec<_>>(), &chosen)?;
        Ok(Self {
            config,
            chosen,
            whole,
            originals: None,
        })
    }

    /// With the weights from before quantising, which `init_lora_weights = "loftq"` begins from.
    #[must_use]
    pub fn with_originals(self, originals: Box<Originals<'a>>) -> Self {
        Self {
            originals: Some(originals),
            ..self
        }
    }

    /// The options.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Whether the module at `path` gets an update.
    pub fn is_chosen(&self, path: &ModulePath) -> bool {
        self.chosen.contains(path)
    }

    /// The modules that get an update, in order.
    pub fn chosen(&self) -> impl Iterator<Item = &ModulePath> {
        self.chosen.iter()
    }

    /// The modules that are trained whole, in order.
    pub fn whole(&self) -> impl Iterator<Item = &ModulePath> {
        self.whole.iter()
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        if self.whole.contains(at) {
            let weight = base.weight();
            return Ok(Box::new(FullUpdate::new(base, &weight)));
        }
        if !self.chosen.contains(at) {
            return Ok(base);
        }
        let (base, low_rank) = self.low_rank(at, base)?;
        Ok(Box::new(Lora::new(base, low_rank, self.config.lora_dropout, at.site())))
    }

    /// The update that the module at `at` begins with, and its base: less that update, where it was taken out of it.
    ///
    /// For methods that build on LoRA; [`Self::projection`] puts the two together.
    pub fn low_rank(
        &self,
        at: &ModulePath,
        base: Box<dyn Projection>,
    ) -> tensor_core::Result<(Box<dyn Projection>, LowRank)> {
        refuse_second(at, &*base)?;
        let weight = base.weight();
        let (out, input) = matrix(at, &weight)?;
        let (rank, scale) = self.rank_and_scale(at, out, input)?;
        let (init, weight) = match self.config.init_lora_weights {
            Init::Loftq => {
                let lost = self.lost(at, &weight)?;
                // A module that was not quantised has lost nothing; factors of zeros could not learn.
                match lost.count_nonzero(None::<i64>).int64_value(&[]) {
                    0 => (Init::Default, weight),
                    _ => (Init::Loftq, lost),
                }
            }
            init => (init, weight),
        };
        let (a, b) = tch::no_grad(|| init.factors(&weight, rank, scale, self.config.seed ^ at.site()));
        let low_rank = LowRank::new(&a, &b, scale);
        Ok(if init.takes_from_base() {
            (less(at, base, &low_rank)?, low_rank.taken_from_base())
        } else {
            (base, low_rank)
        })
    }

    /// What is done to the token table at `at`.
    pub fn table(&self, at: &ModulePath, base: Box<dyn Embedding>) -> tensor_core::Result<Box<dyn Embedding>> {
        if self.whole.contains(at) {
            let weight = base.weight();
            return Ok(Box::new(FullTable::new(base, &weight)));
        }
        if !self.chosen.contains(at) {
            return Ok(base);
        }
        let (vocabulary, width) = matrix(at, &base.weight())?;
        let (rank, scale) = self.rank_and_scale(at, width, vocabulary)?;
        let (a, b) = Init::embedding_factors(vocabulary, width, rank, self.config.seed ^ at.site());
        let device = base.weight().device();
        Ok(Box::new(LoraEmbedding::new(
            base,
            LowRank::new(&a.to_device(device), &b.to_device(device), scale),
        )))
    }

    /// What quantising took from the weight of the module at `at`, which is `quantised` now.
    fn lost(&self, at: &ModulePath, quantised: &Tensor) -> tensor_core::Result<Tensor> {
        let Some(originals) = &self.originals else {
            return Err(Error::NoOriginal.at(at));
        };
        let original = originals(at)?;
        if original.size() != quantised.size() {
            return Err(CoreError::Shape {
                at: at.clone(),
                wanted: quantised.size(),
                found: original.size(),
            });
        }
        Ok(original.to_device(quantised.device()).to_kind(Kind::Float) - quantised.to_kind(Kind::Float))
    }

    fn rank_and_scale(&self, at: &ModulePath, out: i64, input: i64) -> tensor_core::Result<(i64, f64)> {
        let (rank, scale) = self.config.rank_and_scale(at).map_err(|error| error.at(at))?;
        if rank < 1 || rank > out.min(input) {
            return Err(Error::Rank {
                at: at.clone(),
                rank,
                out,
                input,
            }
            .at(at));
        }
        Ok((rank, scale))
    }
}

/// Two updates of one module would share their names in a checkpoint.
fn refuse_second(at: &ModulePath, base: &(impl Parameters + ?Sized)) -> tensor_core::Result<()> {
    let mut wrapped = false;
    base.visit(&ModulePath::root(), &mut |path, _| {
        wrapped |= path.as_str().starts_with("lora_");
    });
    if !wrapped {
        return Ok(());
    }
    Err(CoreError::NotDense {
        at: at.clone(),
        found: "a LoRA adapter",
        hint: "merge the first adapter, or continue training it",
    })
}

/// `W - s · B A` in the place of W, summed in f32 and rounded once.
fn less(at: &ModulePath, base: Box<dyn Projection>, low_rank: &LowRank) -> tensor_core::Result<Box<dyn Projection>> {
    let dense = base.into_dense().map_err(|Found(found)| CoreError::NotDense {
        at: at.clone(),
        found,
        hint: "`pissa` and `olora` change the base weight; use them before quantising, or `init_lora_weights = true`",
    })?;
    let (value, role) = (dense.param().value(), dense.param().role());
    let rest = (value.to_kind(tch::Kind::Float) - low_rank.update()).to_kind(value.kind());
    Ok(Box::new(Dense::new(Param::frozen(rest, role))))
}

fn matrix(at: &ModulePath, weight: &tch::Tensor) -> tensor_core::Result<(i64, i64)> {
    weight.size2().map_err(|_| CoreError::Shape {
        at: at.clone(),
        wanted: vec![-1, -1],
        found: weight.size(),
    })
}
