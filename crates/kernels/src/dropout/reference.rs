//! Dropout by a mask that is multiplied: the mask is made on the CPU, the product on `x`'s device.

use tch::{Kind, Tensor};
use tensor_core::DropoutKey;

use super::kernel;

/// As [`super::dropout`], for any device and dtype.
pub fn dropout(x: &Tensor, p: f64, key: DropoutKey) -> Tensor {
    let threshold = kernel::threshold(p);
    let kept: Vec<bool> = (0..x.numel() as u64)
        .map(|i| kernel::hash(i, key) >= threshold)
        .collect();
    let mask = Tensor::from_slice(&kept)
        .view(x.size().as_slice())
        .to_device(x.device());
    x * (mask.to_kind(Kind::Float) / (1.0 - p)).to_kind(x.kind())
}
