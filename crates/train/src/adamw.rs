//! AdamW with f32 states, all parameters in one fused loop.

use std::collections::BTreeMap;

use kernels::adamw::{Moving, Step, adamw};
use tch::Tensor;

use crate::{States, Trained, Update};

/// Both running means of every parameter, in f32: see [`kernels::adamw`].
#[derive(Debug, Default)]
pub struct AdamW {
    means: Vec<Tensor>,
    squares: Vec<Tensor>,
}

impl States for AdamW {
    fn allocate(&mut self, params: &[Trained]) {
        let zeros = || params.iter().map(|param| param.value.detach().zeros_like()).collect();
        (self.means, self.squares) = (zeros(), zeros());
    }

    fn update(&mut self, params: &[Trained], update: &Update) {
        let values: Vec<Tensor> = params.iter().map(|param| param.value.detach()).collect();
        let gradients: Vec<Tensor> = params.iter().map(Trained::gradient).collect();
        // The running means of parameters that began later are younger, and so is their correction.
        let mut by_age: BTreeMap<usize, Vec<Moving>> = BTreeMap::new();
        for (i, param) in params.iter().enumerate() {
            by_age.entry(update.step - param.since).or_default().push(Moving {
                value: &values[i],
                gradient: &gradients[i],
                first: &self.means[i],
                second: &self.squares[i],
                learning_rate: update.learning_rate * param.rate,
                weight_decay: param.weight_decay,
            });
        }
        for (age, moving) in by_age {
            let step = Step {
                number: age as u64,
                beta1: update.beta1,
                beta2: update.beta2,
                eps: update.epsilon,
                gradient_scale: update.gradient_scale,
            };
            adamw(&moving, &step);
        }
    }

    fn tensors(&self, params: &[Trained]) -> Vec<(String, Tensor)> {
        let named = |tensors: &[Tensor], name: &str| -> Vec<_> {
            params
                .iter()
                .zip(tensors)
                .map(|(param, tensor)| (format!("{}.{name}", param.path), tensor.shallow_clone()))
                .collect()
        };
        let mut tensors = named(&self.means, "exp_avg");
        tensors.extend(named(&self.squares, "exp_avg_sq"));
        tensors
    }
}
