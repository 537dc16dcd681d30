//! A reference that follows the policy: an average of what its adapters were.
//!
//! `ref ← α policy + (1 - α) ref` every so many steps, TRL's `sync_ref_model`. Only what trains is held twice.

use tch::{Kind, Tensor, no_grad};
use tensor_core::{LanguageModel, Param, named_params};

/// What trains, and its average.
#[derive(Debug)]
pub(crate) struct Moving {
    each: Vec<(String, Param, Tensor)>,
    share: f64,
}

impl Moving {
    /// Of what trains in `model`, as it is now; `share` is α.
    pub(crate) fn new(model: &dyn LanguageModel, share: f64) -> Self {
        let trained = named_params(model)
            .into_iter()
            .filter(|(_, param)| param.is_trainable());
        Self {
            each: trained
                .map(|(at, param)| {
                    let average = param.value().detach().copy();
                    (at.to_string(), param, average)
                })
                .collect(),
            share,
        }
    }

    /// Takes a step towards the policy.
    pub(crate) fn follow(&self) {
        no_grad(|| {
            for (_, param, average) in &self.each {
                let mixed = param.value().detach().to_kind(Kind::Float) * self.share
                    + average.to_kind(Kind::Float) * (1.0 - self.share);
                average.shallow_clone().copy_(&mixed);
            }
        });
    }

    /// What `run` finds with the averages in the policy's place.
    pub(crate) fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        let own: Vec<Tensor> = self
            .each
            .iter()
            .map(|(_, param, _)| param.value().detach().copy())
            .collect();
        let put = |values: &mut dyn Iterator<Item = &Tensor>| {
            no_grad(|| {
                for ((_, param, _), value) in self.each.iter().zip(values) {
                    param.value().detach().copy_(value);
                }
            });
        };
        put(&mut self.each.iter().map(|(_, _, average)| average));
        let found = run();
        put(&mut own.iter());
        found
    }

    /// The averages by name, in place.
    pub(crate) fn tensors(&self) -> Vec<(String, Tensor)> {
        let each = self.each.iter();
        each.map(|(at, _, average)| (at.clone(), average.shallow_clone()))
            .collect()
    }
}
