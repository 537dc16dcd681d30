//! Placing saved adapters on a model: each tensor of the file finds its place, or the file is refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use tch::{Device, Tensor};
use tensor_core::{ModulePath, Parameters, Sublayer};

use crate::file::{parse, slot};
use crate::insert::{put, refuse_second};
use crate::{AdapterConfig, Bottleneck, Error, Result, Scaling};

/// Read adapters on their way into a model: hand [`Self::sublayer`] to it, [`Self::fill`] the rest, then
/// [`Self::finish`].
#[derive(Debug)]
pub struct Placement {
    config: AdapterConfig,
    device: Device,
    adapters: BTreeMap<ModulePath, BTreeMap<String, Tensor>>,
    others: BTreeMap<String, Tensor>,
    placed: RefCell<BTreeSet<String>>,
}

impl Placement {
    /// From the tensors of `adapter.safetensors`, by their names in the file, for a model on `device`.
    pub fn new(config: AdapterConfig, tensors: impl IntoIterator<Item = (String, Tensor)>, device: Device) -> Self {
        let (mut adapters, mut others) = (BTreeMap::<_, BTreeMap<_, _>>::new(), BTreeMap::new());
        for (name, tensor) in tensors {
            let tensor = tensor.to_device(device);
            match parse(&name) {
                Some((sublayer, part)) => drop(adapters.entry(sublayer).or_default().insert(part, tensor)),
                None => drop(others.insert(name, tensor)),
            }
        }
        Self {
            config,
            device,
            adapters,
            others,
            placed: RefCell::default(),
        }
    }

    /// Names of parameters of the model itself that the file holds: norms, a new head.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        self.others.keys().map(String::as_str)
    }

    /// What is done to the sublayer at `at`, of width `width`.
    pub fn sublayer(
        &self,
        at: &ModulePath,
        inner: Box<dyn Sublayer>,
        width: i64,
    ) -> tensor_core::Result<Box<dyn Sublayer>> {
        let slot = slot(at);
        let Some(parts) = self.adapters.get(&slot) else {
            return Ok(inner);
        };
        refuse_second(at, &*inner)?;
        let adapter = self.adapter(at, parts, width).map_err(|error| error.at(at))?;
        self.placed.borrow_mut().insert(slot.to_string());
        Ok(Box::new(put(&self.config, at, inner, adapter)))
    }

    /// Writes the file's other tensors over the parameters of those names, which train.
    pub fn fill(&self, model: &(impl Parameters + ?Sized)) -> Result<()> {
        let mut wrong = None;
        model.visit(&ModulePath::root(), &mut |at, param| {
            let Some(value) = self.others.get(at.as_str()) else {
                return;
            };
            if value.size() != param.value().size() {
                wrong.get_or_insert_with(|| Error::Shape {
                    at: at.clone(),
                    tensor: "parameter",
                    wanted: param.value().size(),
                    found: value.size(),
                });
                return;
            }
            tch::no_grad(|| param.value().shallow_clone().copy_(value));
            self.placed.borrow_mut().insert(at.to_string());
        });
        wrong.map_or(Ok(()), Err)
    }

    /// An error if anything of the file found no place.
    pub fn finish(&self) -> Result<()> {
        let placed = self.placed.borrow();
        let names = self
            .adapters
            .keys()
            .map(ToString::to_string)
            .chain(self.others.keys().cloned());
        let mut left = names.filter(|name| !placed.contains(name));
        match left.next() {
            None => Ok(()),
            Some(first) => Err(Error::Unplaced {
                first,
                count: 1 + left.count(),
            }),
        }
    }

    fn adapter(&self, at: &ModulePath, parts: &BTreeMap<String, Tensor>, width: i64) -> Result<Bottleneck> {
        let m = self.config.bottleneck(width, at.layer_idx().unwrap_or(0))?;
        let part = |name: &'static str, wanted: &[i64]| {
            let found = parts.get(name).ok_or_else(|| Error::Missing {
                at: at.clone(),
                missing: name,
            })?;
            if found.size() == wanted {
                return Ok(found);
            }
            Err(Error::Shape {
                at: at.clone(),
                tensor: name,
                wanted: wanted.to_vec(),
                found: found.size(),
            })
        };
        let (down, up) = (part(DOWN, &[m, width])?, part(UP, &[width, m])?);
        let adapter = Bottleneck::new(down, up, self.config.non_linearity)
            .with_biases(part(DOWN_BIAS, &[m])?, part(UP_BIAS, &[width])?);
        let (adapter, known) = match self.config.scaling {
            Scaling::Fixed(scale) => (adapter.with_scale(scale), 4),
            Scaling::Learned(_) => (
                adapter.with_learned_scale(&part(SCALE, &[1])?.to_device(self.device)),
                5,
            ),
        };
        match parts
            .keys()
            .find(|name| ![DOWN, UP, DOWN_BIAS, UP_BIAS, SCALE].contains(&name.as_str()))
        {
            Some(name) => Err(Error::Unplaced {
                first: format!("{at}: {name}"),
                count: parts.len() - known,
            }),
            None => Ok(adapter),
        }
    }
}

const DOWN: &str = "adapter_down.0.weight";
const DOWN_BIAS: &str = "adapter_down.0.bias";
const UP: &str = "adapter_up.weight";
const UP_BIAS: &str = "adapter_up.bias";
const SCALE: &str = "scaling";
