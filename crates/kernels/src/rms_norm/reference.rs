//! The norm in libtorch's plain operators, rounded where Transformers rounds.

use tch::{Kind, Tensor};

use super::Gain;
use crate::rows::math_kind;

/// As [`super::rms_norm`], for any device and dtype.
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f64, meaning: Gain) -> Tensor {
    let wide = x.to_kind(math_kind(x));
    let mean = wide.square().mean_dim([-1i64].as_slice(), true, None::<Kind>);
    let normed = wide * (mean + eps).rsqrt();
    match meaning {
        Gain::Plain => normed.to_kind(x.kind()) * gain,
        Gain::PlusOne => normed * (gain.to_kind(math_kind(x)) + 1.0),
    }
    .to_kind(x.kind())
}

/// As [`super::add_rms_norm`], for any device and dtype.
pub fn add_rms_norm(residual: &Tensor, delta: &Tensor, gain: &Tensor, eps: f64, meaning: Gain) -> (Tensor, Tensor) {
    let sum = residual + delta;
    let normed = rms_norm(&sum, gain, eps, meaning);
    (sum, normed)
}
