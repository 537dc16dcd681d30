//! From options to surgery: what is done to each projection of a model.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tensor_core::{Error as CoreError, ModulePath, Projection};

use crate::bank::Sites;
use crate::{Error, Experts, Memory, MemoryBank, MemoryConfig, Result};

/// A choice of projections that get a memory: hand [`Self::projection`] to the model, then take the bank.
#[derive(Debug)]
pub struct Wrapping {
    config: MemoryConfig,
    chosen: BTreeSet<ModulePath>,
    sites: RefCell<Sites>,
}

impl Wrapping {
    /// Chooses among a model's projections (each with whether it is the output layer).
    pub fn choose(config: MemoryConfig, projections: &[(ModulePath, bool)]) -> Result<Self> {
        config.check()?;
        let paths = projections.iter().map(|(path, is_output)| (path, *is_output));
        let chosen = config.modules()?.choose(paths).map_err(|error| match error {
            CoreError::NoMatch { what, hint } => Error::Option {
                option: "target_modules",
                found: format!("{what} matches nothing"),
                hint,
            },
            other => Error::Option {
                option: "target_modules",
                found: other.to_string(),
                hint: "name projections of the model".into(),
            },
        })?;
        Ok(Self {
            config,
            chosen: chosen.into_iter().collect(),
            sites: RefCell::default(),
        })
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        if !self.chosen.contains(at) {
            return Ok(base);
        }
        let (outputs, inputs) = matrix(at, &*base)?;
        let experts = Experts::random(&self.config, at, inputs, outputs);
        Ok(place(&self.sites, at, base, experts))
    }

    /// The memories that were put in.
    pub fn bank(self) -> MemoryBank {
        MemoryBank::new(self.config, self.sites.into_inner())
    }
}

/// Puts the experts beside `base` and notes them in `sites`.
pub(crate) fn place(
    sites: &RefCell<Sites>,
    at: &ModulePath,
    base: Box<dyn Projection>,
    experts: Experts,
) -> Box<dyn Projection> {
    let experts = Arc::new(Mutex::new(experts));
    sites.borrow_mut().push((at.clone(), experts.clone()));
    Box::new(Memory::new(base, experts))
}

/// Output and input width of what the slot at `at` holds.
pub(crate) fn matrix(at: &ModulePath, base: &dyn Projection) -> tensor_core::Result<(usize, usize)> {
    let weight = base.weight();
    match weight.size2() {
        Ok((outputs, inputs)) => Ok((outputs as usize, inputs as usize)),
        Err(_) => Err(CoreError::Shape {
            at: at.clone(),
            wanted: vec![-1, -1],
            found: weight.size(),
        }),
    }
}
