//! Root-mean-square normalisation over the last dimension, as a module with its gain.

use kernels::Gain;
use tch::Tensor;
use tensor_core::{ModulePath, Param, Parameters, Pass, Result};

/// What is done to each norm: its path and what the slot holds, to what it shall hold.
pub type NormSurgeon<'a> = dyn FnMut(&ModulePath, RmsNorm) -> Result<RmsNorm> + 'a;

/// A gain `[d]` and how it is applied.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Param,
    /// Stands for `weight` while adapters are on: PEFT's `modules_to_save`.
    trained: Option<Param>,
    epsilon: f64,
    meaning: Gain,
}

impl RmsNorm {
    /// From a stored gain `[d]` and what it means.
    pub fn new(weight: Param, epsilon: f64, meaning: Gain) -> Self {
        Self {
            weight,
            trained: None,
            epsilon,
            meaning,
        }
    }

    /// The gain `[d]` that the model came with.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The same norm with another gain `[d]` in its place while adapters are on.
    #[must_use]
    pub fn with_trained(self, gain: Param) -> Self {
        Self {
            trained: Some(gain),
            ..self
        }
    }

    /// The same function with one gain.
    #[must_use]
    pub fn merge(self) -> Self {
        let weight = match self.trained {
            Some(gain) => Param::frozen(gain.value().to_kind(self.weight.value().kind()), self.weight.role()),
            None => self.weight,
        };
        Self {
            weight,
            trained: None,
            ..self
        }
    }

    /// `[.., d]` to `[.., d]`, in the dtype of `x`.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        kernels::rms_norm(x, self.gain(pass), self.epsilon, self.meaning)
    }

    /// `x + addend`, and its normalised form: both `[t, d]`.
    pub fn add_forward(&self, x: &Tensor, addend: &Tensor, pass: &Pass) -> (Tensor, Tensor) {
        kernels::add_rms_norm(x, addend, self.gain(pass), self.epsilon, self.meaning)
    }

    fn gain(&self, pass: &Pass) -> &Tensor {
        let trained = self.trained.as_ref().filter(|_| pass.adapters_on());
        trained.unwrap_or(&self.weight).value()
    }
}

impl Parameters for RmsNorm {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        visitor(&at.join("weight"), &self.weight);
        if let Some(gain) = &self.trained {
            visitor(&at.join("modules_to_save.weight"), gain);
        }
    }
}
