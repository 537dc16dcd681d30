//! AdamW with f32 states.
//!
//! `p ← p (1 − η λ)`, `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
//! `p ← p − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`.
//!
//! Source: Loshchilov and Hutter 2019, arXiv:1711.05101, as `torch.optim.AdamW` computes it. Deviation: none.

use tch::Tensor;

use crate::{States, Trained, Update};

/// Both running means of every parameter, in f32.
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
        for ((param, mean), square) in params.iter().zip(&mut self.means).zip(&mut self.squares) {
            one(param, mean, square, update);
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

fn one(param: &Trained, mean: &mut Tensor, square: &mut Tensor, update: &Update) {
    let rate = update.learning_rate * param.rate;
    let gradient = param.gradient() * update.gradient_scale;
    let mut value = param.value.detach();
    let _ = value.g_mul_scalar_(1.0 - rate * param.weight_decay);
    let _ = mean.lerp_(&gradient, 1.0 - update.beta1);
    let _ = square.g_mul_scalar_(update.beta2);
    let _ = square.addcmul_(&(&gradient * (1.0 - update.beta2)), &gradient);
    let steps = update.step as i32;
    let (left1, left2) = (1.0 - update.beta1.powi(steps), 1.0 - update.beta2.powi(steps));
    let root = square.sqrt() / left2.sqrt() + update.epsilon;
    let _ = value.addcdiv_(&(&*mean * (-rate / left1)), &root);
}

pub(crate) fn gradient_norm(gradients: &[Tensor]) -> f64 {
    gradients
        .iter()
        .map(|gradient| gradient.norm().double_value(&[]).powi(2))
        .sum::<f64>()
        .sqrt()
}
