//! Root-mean-square normalisation over the last dimension, as a module with its gain.

use kernels::Gain;
use tch::Tensor;
use tensor_core::{ModulePath, Param, Parameters};

/// A gain `[d]` and how it is applied.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Param,
    epsilon: f64,
    meaning: Gain,
}

impl RmsNorm {
    /// From a stored gain `[d]` and what it means.
    pub fn new(weight: Param, epsilon: f64, meaning: Gain) -> Self {
        Self {
            weight,
            epsilon,
            meaning,
        }
    }

    /// `[.., d]` to `[.., d]`, in the dtype of `x`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        kernels::rms_norm(x, self.weight.value(), self.epsilon, self.meaning)
    }

    /// `x + addend`, and its normalised form: both `[t, d]`.
    pub fn add_forward(&self, x: &Tensor, addend: &Tensor) -> (Tensor, Tensor) {
        kernels::add_rms_norm(x, addend, self.weight.value(), self.epsilon, self.meaning)
    }
}

impl Parameters for RmsNorm {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        visitor(&at.join("weight"), &self.weight);
    }
}
