//! Placing a saved adapter on a model: each tensor of the file finds its module, or the file is refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use tch::Tensor;
use tensor_core::{Embedding, ModulePath, Param, Projection};

use crate::adapter::PREFIX;
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
            let path = key.strip_prefix(PREFIX).unwrap_or(&key);
            // The adapter's name stands in old files only.
            let path = path.replace(".default", "");
            if path.ends_with(".base_layer.weight") {
                continue; // PEFT stores a copy of the base beside adapted embeddings.
            }
            let found = [
                (".lora_A.weight", false, 0),
                (".lora_B.weight", false, 1),
                (".lora_embedding_A", true, 0),
                (".lora_embedding_B", true, 1),
            ]
            .into_iter()
            .find_map(|(suffix, table, half)| Some((path.strip_suffix(suffix)?.to_owned(), table, half)));
            match found {
                Some((module, table, half)) => halves.entry((table, module.into())).or_default()[half] = Some(tensor),
                None if path.contains("lora_") => return Err(Error::Tensor { key }),
                None => drop(whole.insert(ModulePath::from(path), tensor)),
            }
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
        let placed = self.placed_pair(at, a, b, &base.weight(), false);
        placed.map(Some).map_err(|error| error.at(at))
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

    /// The update that the adapter holds for the module at `at` (a token table if `table`), which counts as placed.
    pub(crate) fn update(&self, at: &ModulePath, weight: &Tensor, table: bool) -> tensor_core::Result<Option<LowRank>> {
        let pairs = if table { &self.tables } else { &self.projections };
        let Some((a, b)) = pairs.get(at) else { return Ok(None) };
        let placed = self.placed_pair(at, a, b, weight, table);
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
        Ok(LowRank::new(
            &a.to_device(weight.device()),
            &b.to_device(weight.device()),
            scale,
        ))
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
