//! Placing a saved adapter on a model: LoRA's tensors, and magnitudes where the adapter has them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use checkpoint::PeftPart;
use lora::{Error, LoraConfig, Result};
use tch::Tensor;
use tensor_core::{Embedding, ModulePath, Param, Projection};

use crate::Dora;
use crate::wrap::over;

/// A read adapter, of LoRA or of DoRA, on its way into a model: hand its surgeons to the model, then call
/// [`Self::finish`].
#[derive(Debug)]
pub struct Placement {
    lora: lora::Placement,
    use_dora: bool,
    magnitudes: BTreeMap<ModulePath, Tensor>,
    placed: RefCell<BTreeSet<ModulePath>>,
}

impl Placement {
    /// From the tensors of `adapter_model.safetensors`, by their names in the file; `use_dora` as its configuration says.
    pub fn new(
        config: LoraConfig,
        use_dora: bool,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<Self> {
        let mut magnitudes = BTreeMap::new();
        let mut others = Vec::new();
        for (key, tensor) in tensors {
            match PeftPart::of(&key) {
                // PEFT would pass over it; what it belongs to is not said then.
                Some((_, PeftPart::Magnitude)) if !use_dora => return Err(Error::Tensor { key }),
                Some((module, PeftPart::Magnitude)) => drop(magnitudes.insert(module, tensor)),
                _ => others.push((key, tensor)),
            }
        }
        Ok(Self {
            lora: lora::Placement::new(config, others)?,
            use_dora,
            magnitudes,
            placed: RefCell::default(),
        })
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        if !self.use_dora {
            return self.lora.projection(at, base);
        }
        let (low_rank, magnitude) = match (self.lora.low_rank(at, &*base)?, self.magnitudes.get(at)) {
            (Some(low_rank), Some(magnitude)) => (low_rank, magnitude),
            (None, None) => return self.lora.projection(at, base),
            (Some(_), None) => return Err(half(at, "lora_A and lora_B", "lora_magnitude_vector").at(at)),
            (None, Some(_)) => return Err(half(at, "lora_magnitude_vector", "lora_A and lora_B").at(at)),
        };
        let wanted = vec![low_rank.b().value().size()[0]];
        if magnitude.size() != wanted {
            let (tensor, found) = ("lora_magnitude_vector", magnitude.size());
            return Err(Error::Shape {
                at: at.clone(),
                tensor,
                wanted,
                found,
            }
            .at(at));
        }
        self.placed.borrow_mut().insert(at.clone());
        // Factors of zeros have gradients of zeros: only the magnitudes train.
        let still = [low_rank.a(), low_rank.b()].map(|factor| factor.value().abs().max().double_value(&[]) == 0.0);
        let update = (still != [true, true]).then_some(low_rank);
        let dora = over(at, Dora::new(base, update))?
            .with_magnitude(magnitude)
            .with_dropout(self.lora.config().lora_dropout, at.site());
        Ok(Box::new(dora))
    }

    /// What is done to the token table at `at`.
    pub fn table(&self, at: &ModulePath, base: Box<dyn Embedding>) -> tensor_core::Result<Box<dyn Embedding>> {
        if self.magnitudes.contains_key(at) {
            return Err(Error::Option {
                option: "use_dora",
                found: format!("magnitudes of the token table `{at}`, which DoRA does not decompose here"),
                hint: "merge the adapter with the library that made it",
            }
            .at(at));
        }
        self.lora.table(at, base)
    }

    /// What a parameter outside projections and tables becomes.
    pub fn param(&self, at: &ModulePath, param: Param) -> tensor_core::Result<Param> {
        self.lora.param(at, param)
    }

    /// An error if anything of the adapter found no place.
    pub fn finish(&self) -> Result<()> {
        self.lora.finish()?;
        let placed = self.placed.borrow();
        let mut left = self.magnitudes.keys().filter(|at| !placed.contains(*at));
        match left.next() {
            None => Ok(()),
            Some(first) => Err(Error::Unplaced {
                first: first.clone(),
                count: 1 + left.count(),
            }),
        }
    }
}

fn half(at: &ModulePath, found: &'static str, missing: &'static str) -> Error {
    Error::Pair {
        at: at.clone(),
        found,
        missing,
    }
}
