//! Gated activations in libtorch's plain operators.

use tch::Tensor;

use super::Activation;

/// As [`super::gated`], for any device and dtype.
pub fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Tensor {
    let activated = match activation {
        Activation::Silu => gate.silu(),
        Activation::GeluTanh => gate.gelu("tanh"),
    };
    activated * up
}

/// As [`super::gated_packed`], for any device and dtype.
pub fn gated_packed(activation: Activation, gate_up: &Tensor) -> Tensor {
    let halves = gate_up.chunk(2, -1);
    gated(activation, &halves[0], &halves[1])
}
