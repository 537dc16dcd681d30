//! `AdamW` in libtorch's plain operators, in the order of `torch.optim.AdamW`, in the tensors' own dtype.

use tch::{Kind, Tensor};

use super::{Moving, Step};

/// One parameter's step, in place; see [`super::adamw`].
pub fn adamw(param: &Moving, step: &Step) {
    tch::no_grad(|| {
        let (mut value, mut first, mut second) = (param.value.detach(), param.first.detach(), param.second.detach());
        let gradient = param.gradient.detach() * step.gradient_scale;
        let _ = value.g_mul_scalar_(1.0 - param.learning_rate * param.weight_decay);
        let _ = first.lerp_(&gradient, 1.0 - step.beta1);
        second *= step.beta2;
        second += gradient.square() * (1.0 - step.beta2);
        let correction1 = 1.0 - step.beta1.powf(step.number as f64);
        let correction2 = 1.0 - step.beta2.powf(step.number as f64);
        let denominator = second.sqrt() / correction2.sqrt() + step.eps;
        value -= first.shallow_clone() / denominator * (param.learning_rate / correction1);
    });
}

/// The sum of squares in f64.
pub fn square_sum(gradient: &Tensor) -> f64 {
    gradient
        .to_kind(Kind::Double)
        .square()
        .sum(Kind::Double)
        .double_value(&[])
}
