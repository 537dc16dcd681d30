//! Placing a saved adapter on a model: each tensor of the file finds its module, or the file is refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use checkpoint::PeftPart;
use tch::{Kind, Tensor};
use tensor_core::{Embedding, ModulePath, Param, Projection};

use crate::{Error, FullTable, FullUpdate, Lora, LoraConfig, LoraEmbedding, LowRank, Result};

/// What an adapter's file holds: pairs of factors (A, B) of projections and of tables, and tensors of whole modules.
pub(crate) struct Parts {
    pub(crate) projections: BTreeMap<ModulePath, (Tensor, Tensor)>,
    pub(crate) tables: BTreeMap<ModulePath, (Tensor, Tensor)>,
    pub(crate) whole: BTreeMap<ModulePath, Tensor>,
}

/// A read adapter on its way into a model: hand its surgeons to the model, then call [`Self::finish`].
#[derive(Debug)]
pub struct Placement {
    config: LoraConfig,
    projections: BTreeMap<ModulePath, (Tensor, Tensor)>,
    tables: BTreeMap<ModulePath, (Tensor, Tensor)>,
    whole: BTreeMap<ModulePath, Tensor>,
    placed: RefCell<BTreeSet<ModulePath>>,
}

impl Placement {
    /// From the tensors of `adapter_model.safetensors`, by their names in the file.
    pub fn new(config: LoraConfig, tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self> {
        let mut halves: BTreeMap<(bool, ModulePath), [Option<Tensor>; 2]> = BTreeMap::new();
        let mut whole = BTreeMap::new();
        for (key, tensor) in tensors {
            let Some((module, part)) = PeftPart::of(&key) else {
                return Err(Error::Tensor { key });
            };
            let (table, half) = match part {
                PeftPart::A => (false, 0),
                PeftPart::B => (false, 1),
                PeftPart::EmbeddingA => (true, 0),
                PeftPart::EmbeddingB => (true, 1),
                PeftPart::Saved(name) => {
                    whole.insert(module.join(name), tensor);
                    continue;
                }
                // PEFT stores a copy of the base beside adapted embeddings.
                PeftPart::BaseLayer(name) if name == "weight" => continue,
                _ => return Err(Error::Tensor { key }),
            };
            halves.entry((table, module)).or_default()[half] = Some(tensor);
        }
        let (mut projections, mut tables) = (BTreeMap::new(), BTreeMap::new());
        for ((table, at), pair) in halves {
            match pair {
                [Some(a), Some(b)] => drop(if table { &mut tables } else { &mut projections }.insert(at, (a, b))),
                [Some(_), None] => {
                    return Err(Error::Pair {
                        at,
                        found: "lora_A",
                        missing: "lora_B",
                    });
                }
                _ => {
                    return Err(Error::Pair {
                        at,
                        found: "lora_B",
                        missing: "lora_A",
                    });
                }
            }
        }
        for (at, (a, _)) in projections.iter().chain(&tables) {
            let (wanted, _) = config.rank_and_scale(at)?;
            let found = a.size().first().copied().unwrap_or(0);
            if found != wanted {
                let at = at.clone();
                return Err(Error::RankInFile { at, wanted, found });
            }
        }
        Ok(Self {
            config,
            projections,
            tables,
            whole,
            placed: RefCell::default(),
        })
    }

    /// The tensors, for those who do not place them.
    pub(crate) fn into_parts(self) -> Parts {
        let Self {
            projections,
            tables,
            whole,
            ..
        } = self;
        Parts {
            projections,
            tables,
            whole,
        }
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        if let Some(weight) = self.whole.get(&at.join("weight")) {
            let wanted = base.weight().size();
            fits(at, "weight", &wanted, weight).map_err(|error| error.at(at))?;
            self.placed.borrow_mut().insert(at.join("weight"));
            return Ok(Box::new(FullUpdate::new(base, weight)));
        }
        Ok(match self.low_rank(at, &*base)? {
            Some(low_rank) => Box::new(Lora::new(base, low_rank, self.config.lora_dropout, at.site())),
            None => base,
        })
    }

    /// The update that the adapter holds for the module at `at`, which counts as placed.
    ///
    /// For methods that build on LoRA; [`Self::projection`] puts it beside its base.
    pub fn low_rank(&self, at: &ModulePath, base: &dyn Projection) -> tensor_core::Result<Option<LowRank>> {
        let Some((a, b)) = self.projections.get(at) else {
            return Ok(None);
        };
        self.refuse_packed(at, base).map_err(|error| error.at(at))?;
        let placed = self.placed_pair(at, a, b, &base.weight(), false);
        placed.map(Some).map_err(|error| error.at(at))
    }

    /// What was taken out of a dense weight cannot be taken out of a packed one.
    fn refuse_packed(&self, at: &ModulePath, base: &dyn Projection) -> Result<()> {
        let init = self.config.init_lora_weights;
        let mut is_packed = false;
        base.visit(&ModulePath::root(), &mut |_, param| {
            is_packed |= matches!(param.value().kind(), Kind::Uint8 | Kind::Int8);
        });
        if init.takes_from_base() && is_packed {
            let (at, init) = (at.clone(), init.name());
            return Err(Error::PackedBase { at, init });
        }
        Ok(())
    }

    /// The options.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// What is done to the token table at `at`.
    pub fn table(&self, at: &ModulePath, base: Box<dyn Embedding>) -> tensor_core::Result<Box<dyn Embedding>> {
        if let Some(weight) = self.whole.get(&at.join("weight")) {
            fits(at, "weight", &base.weight().size(), weight).map_err(|error| error.at(at))?;
            self.placed.borrow_mut().insert(at.join("weight"));
            return Ok(Box::new(FullTable::new(base, weight)));
        }
        let Some((a, b)) = self.tables.get(at) else {
            return Ok(base);
        };
        let low_rank = self
            .placed_pair(at, a, b, &base.weight(), true)
            .map_err(|error| error.at(at))?;
        Ok(Box::new(LoraEmbedding::new(base, low_rank)))
    }

    /// What a parameter outside projections and tables (a norm's gain) becomes: trained whole if the adapter holds it.
    pub fn param(&self, at: &ModulePath, param: Param) -> tensor_core::Result<Param> {
        let Some(value) = self.whole.get(at) else {
            return Ok(param);
        };
        fits(at, "parameter", &param.value().size(), value).map_err(|error| error.at(at))?;
        self.placed.borrow_mut().insert(at.clone());
        Ok(Param::trainable(&value.to_device(param.value().device()), param.role()))
    }

    /// An error if anything of the adapter found no place.
    pub fn finish(&self) -> Result<()> {
        let placed = self.placed.borrow();
        let mut left = self
            .projections
            .keys()
            .chain(self.tables.keys())
            .chain(self.whole.keys())
            .filter(|at| !placed.contains(*at));
        match left.next() {
            None => Ok(()),
            Some(first) => Err(Error::Unplaced {
                first: first.clone(),
                count: 1 + left.count(),
            }),
        }
    }

    /// The update that the adapter holds for the token table at `at`, which counts as placed.
    pub(crate) fn table_update(&self, at: &ModulePath, weight: &Tensor) -> tensor_core::Result<Option<LowRank>> {
        let Some((a, b)) = self.tables.get(at) else {
            return Ok(None);
        };
        let placed = self.placed_pair(at, a, b, weight, true);
        placed.map(Some).map_err(|error| error.at(at))
    }

    /// The first tensor of a module that was trained whole.
    pub(crate) fn first_whole(&self) -> Option<&ModulePath> {
        self.whole.keys().next()
    }

    fn placed_pair(&self, at: &ModulePath, a: &Tensor, b: &Tensor, weight: &Tensor, table: bool) -> Result<LowRank> {
        let (rank, scale) = self.config.rank_and_scale(at)?;
        let shape = weight.size();
        let (out, input) = if table {
            (shape[1], shape[0])
        } else {
            (shape[0], shape[1])
        };
        fits(at, "lora_A", &[rank, input], a)?;
        fits(at, "lora_B", &[out, rank], b)?;
        self.placed.borrow_mut().insert(at.clone());
        let (a, b) = (a.to_device(weight.device()), b.to_device(weight.device()));
        let init = self.config.init_lora_weights;
        if table || !init.takes_from_base() {
            return Ok(LowRank::new(&a, &b, scale));
        }
        if rank > out.min(input) {
            let at = at.clone();
            return Err(Error::Rank { at, rank, out, input });
        }
        // PEFT's base is `W - s B₀ A₀` then: over W itself the update is `s (B A - B₀ A₀)`.
        let (first_a, first_b) = tch::no_grad(|| init.factors(weight, rank, scale, self.config.seed));
        let a = Tensor::cat(&[a.to_kind(Kind::Float), first_a], 0);
        let b = Tensor::cat(&[b.to_kind(Kind::Float), first_b.neg()], 1).contiguous();
        Ok(LowRank::new(&a, &b, scale))
    }
}

fn fits(at: &ModulePath, tensor: &'static str, wanted: &[i64], found: &Tensor) -> Result<()> {
    if found.size() == wanted {
        return Ok(());
    }
    Err(Error::Shape {
        at: at.clone(),
        tensor,
        wanted: wanted.to_vec(),
        found: found.size(),
    })
}
