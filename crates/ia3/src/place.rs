//! Placing a saved adapter on a model: each tensor of the file finds its module, or the file is refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use checkpoint::{PeftAdapter, PeftPart};
use tch::{Kind, Tensor};
use tensor_core::{Dense, ModulePath, Param, Projection, Role};

use crate::wrap::{matrix, over};
use crate::{Error, Ia3, Ia3Config, Result, Side};

/// A read adapter on its way into a model: hand its surgeons to the model, then call [`Self::finish`].
#[derive(Debug)]
pub struct Placement {
    vectors: BTreeMap<ModulePath, (Side, Tensor)>,
    heads: BTreeMap<ModulePath, Tensor>,
    placed: RefCell<BTreeSet<ModulePath>>,
}

impl Placement {
    /// From the tensors of `adapter_model.safetensors`, by their names in the file.
    pub fn new(config: &Ia3Config, tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self> {
        let targets = config.modules()?;
        let (mut vectors, mut heads) = (BTreeMap::new(), BTreeMap::new());
        for (key, tensor) in tensors {
            match PeftPart::of(&key) {
                Some((at, PeftPart::Saved(name))) if name == "ia3_l" => {
                    // Patterns are about the names that the file's own model has.
                    let named = PeftAdapter::wrapped_name(&at);
                    let Some(named) = [&at, &named].into_iter().find(|path| targets.contains(path, false)) else {
                        return Err(Error::Untargeted { at });
                    };
                    let side = config.side(named)?;
                    vectors.insert(at, (side, tensor));
                }
                Some((at, PeftPart::Saved(name))) if name == "weight" && HEADS.contains(&at.name()) => {
                    heads.insert(at, tensor);
                }
                _ => return Err(Error::Tensor { key }),
            }
        }
        Ok(Self {
            vectors,
            heads,
            placed: RefCell::default(),
        })
    }

    /// Whether anything of it belongs to the module at `path`.
    pub fn touches(&self, path: &ModulePath) -> bool {
        self.vectors.contains_key(path) || self.heads.contains_key(path)
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        if let Some(weight) = self.heads.get(at) {
            fits(at, "weight", &matrix(at, &*base)?, weight)?;
            self.placed.borrow_mut().insert(at.clone());
            let weight = weight.to_device(base.weight().device());
            return Ok(Box::new(Dense::new(Param::trainable(&weight, Role::Head))));
        }
        let Some((side, vector)) = self.vectors.get(at) else {
            return Ok(base);
        };
        fits(at, "ia3_l", &side.shape(matrix(at, &*base)?), vector)?;
        self.placed.borrow_mut().insert(at.clone());
        Ok(Box::new(over(at, Ia3::new(base, *side, vector))?))
    }

    /// What a parameter outside projections becomes once the adapter is merged: the bias of a layer whose outputs are
    /// scaled is scaled with them.
    pub fn merged_param(&self, at: &ModulePath, param: Param) -> tensor_core::Result<Param> {
        let module = at.as_str().strip_suffix(".bias").map(ModulePath::from);
        let scaled = module.and_then(|module| self.vectors.get(&module));
        let Some((Side::Outputs, vector)) = scaled else {
            return Ok(param);
        };
        let (bias, role) = (param.value(), param.role());
        let vector = vector.to_device(bias.device()).view([-1]);
        fits(at, "ia3_l", &bias.size(), &vector)?;
        let merged = tch::no_grad(|| bias.to_kind(Kind::Float) * vector.to_kind(Kind::Float));
        Ok(Param::frozen(merged.to_kind(bias.kind()), role))
    }

    /// An error if anything of the adapter found no place.
    pub fn finish(&self) -> Result<()> {
        let placed = self.placed.borrow();
        let mut left = self
            .vectors
            .keys()
            .chain(self.heads.keys())
            .filter(|at| !placed.contains(*at));
        match left.next() {
            None => Ok(()),
            Some(first) => Err(Error::Unplaced {
                first: first.clone(),
                count: 1 + left.count(),
            }),
        }
    }
}

/// Output layers that PEFT saves whole beside the vectors.
pub(crate) const HEADS: [&str; 2] = ["classifier", "score"];

fn fits(at: &ModulePath, tensor: &'static str, wanted: &[i64], found: &Tensor) -> tensor_core::Result<()> {
    if found.size() == wanted {
        return Ok(());
    }
    Err(Error::Shape {
        at: at.clone(),
        tensor,
        wanted: wanted.to_vec(),
        found: found.size(),
    }
    .at(at))
}
