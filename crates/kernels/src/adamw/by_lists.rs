//! `AdamW` on a device that counts launches: libtorch's fused step over lists of parameters.

use std::collections::BTreeMap;

use tch::Tensor;
use tensor_core::lists::{AdamWOptions, fused_adamw};

use super::{Moving, Step};

/// Numbers that go through one call at most: where gradients are scaled, a copy of so many is made.
const AT_ONCE: usize = 1 << 26;

/// One step of every parameter, wherever it lies; see [`super::adamw`].
pub(super) fn adamw(params: &[&Moving], step: &Step) {
    let mut alike: BTreeMap<(String, u64, u64), Vec<&Moving>> = BTreeMap::new();
    for param in params {
        let key = (
            format!("{:?}", param.value.device()),
            param.learning_rate.to_bits(),
            param.weight_decay.to_bits(),
        );
        alike.entry(key).or_default().push(param);
    }
    for params in alike.into_values() {
        let options = AdamWOptions {
            learning_rate: params[0].learning_rate,
            beta1: step.beta1,
            beta2: step.beta2,
            weight_decay: params[0].weight_decay,
            eps: step.eps,
            gradient_scale: step.gradient_scale,
            step: step.number,
        };
        let (mut part, mut numbers) = (Vec::new(), 0);
        for param in params {
            if numbers > 0 && numbers + param.value.numel() > AT_ONCE {
                call(&part, &options);
                (part, numbers) = (Vec::new(), 0);
            }
            numbers += param.value.numel();
            part.push([param.value, param.gradient, param.first, param.second]);
        }
        call(&part, &options);
    }
}

fn call(params: &[[&Tensor; 4]], options: &AdamWOptions) {
    fused_adamw(params, options).unwrap_or_else(|error| panic!("{error}"));
}

/// The sum of squares in f64, waiting for each device once.
pub(super) fn square_sum(gradients: &[Tensor]) -> f64 {
    let mut by_device: BTreeMap<String, Vec<&Tensor>> = BTreeMap::new();
    for gradient in gradients {
        by_device
            .entry(format!("{:?}", gradient.device()))
            .or_default()
            .push(gradient);
    }
    let sums = by_device
        .into_values()
        .map(|gradients| tensor_core::lists::square_sum(&gradients));
    sums.map(|sum| sum.unwrap_or_else(|error| panic!("{error}"))).sum()
}
