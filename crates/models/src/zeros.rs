//! The zeros of a pruned model, kept under whatever is trained over them.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use decoder::Decoder;
use prune::{Mask, Masked};
use tch::Tensor;
use tensor_core::{Error, ModulePath, Projection};

/// The key of `adapter_config.json` that says so of an adapter.
pub const KEY: &str = "keep_zeros";

/// The share of zeros from which a matrix counts as pruned; a trained one has next to none.
const PRUNED: f64 = 0.05;

/// The mask of a weight `[out, in]`, if it is pruned.
pub fn mask_of(weight: &Tensor) -> Option<Mask> {
    let mask = Mask::of(weight);
    (mask.sparsity() >= PRUNED).then_some(mask)
}

/// The masks of a pruned model, by module.
#[derive(Debug, Default)]
pub struct Zeros(BTreeMap<ModulePath, Mask>);

impl Zeros {
    /// Of a model before anything is put over its weights; the model comes back.
    ///
    /// Errors: a model without zeros.
    pub fn of(model: Decoder) -> Result<(Decoder, Self)> {
        let mut masks = BTreeMap::new();
        let model = model.map_projections(&mut |at, projection| {
            if at.layer_idx().is_some()
                && let Some(mask) = mask_of(&projection.weight())
            {
                masks.insert(at.clone(), mask);
            }
            Ok(projection)
        })?;
        if masks.is_empty() {
            return Err(nothing_pruned());
        }
        Ok((model, Self(masks)))
    }

    /// Refuses a model none of whose matrices was pruned before it was quantised: zeros that quantising makes are no
    /// pruned weights. `original` gives a matrix as it was.
    pub fn expect_before(model: &Decoder, original: impl Fn(&ModulePath) -> tensor_core::Result<Tensor>) -> Result<()> {
        for (path, _) in model.projection_paths() {
            if path.layer_idx().is_some() && mask_of(&original(&path)?).is_some() {
                return Ok(());
            }
        }
        Err(nothing_pruned())
    }

    /// How many matrices are pruned, and the share of their weights that is zero.
    pub fn counts(&self) -> (usize, f64) {
        let (zeros, all) = self.0.values().fold((0, 0), |(zeros, all), mask| {
            (zeros + mask.num_zeros(), all + mask.kept().numel())
        });
        (self.0.len(), zeros as f64 / all as f64)
    }

    /// Puts the masks over what the model's slots hold by now.
    pub fn keep(mut self, model: Decoder) -> Result<Decoder> {
        let model = model.map_projections(&mut |at, projection| {
            let Some(mask) = self.0.remove(at) else {
                return Ok(projection);
            };
            let masked = Masked::new(projection, mask).map_err(|source| Error::Surgery {
                at: at.clone(),
                source: Box::new(source),
            })?;
            Ok(Box::new(masked) as Box<dyn Projection>)
        })?;
        Ok(model)
    }
}

fn nothing_pruned() -> anyhow::Error {
    anyhow!(
        "wanted a pruned model, found no matrix of its blocks with zeros\n\
         hint: `finetune prune` makes some; without them nothing is to be kept"
    )
}
