//! What moves the parameters: groups by role, one set of states, the gradient's norm.
//!
//! Norms and biases are not decayed; everything else is, adapters included, as in Transformers' `Trainer`. With LoRA+
//! (Hayou et al. 2024, arXiv:2402.12354) the second factor of an adapter, and every vector, learns `ratio` times
//! faster, as in PEFT's `create_loraplus_optimizer`.

use tch::Tensor;
use tensor_core::{Param, Parameters, Role, named_params};

use crate::{Error, Result, TrainConfig};

/// A parameter that trains, with what its group says about it.
#[derive(Debug)]
pub struct Trained {
    /// Its path in the model.
    pub path: String,
    /// The f32 master: a leaf that holds its own gradient.
    pub value: Tensor,
    /// Its share of the learning rate.
    pub rate: f64,
    /// Its decay, decoupled from the gradient.
    pub weight_decay: f64,
}

impl Trained {
    /// The gradient of this step; zeros where none came.
    pub fn gradient(&self) -> Tensor {
        let gradient = self.value.grad();
        if gradient.defined() {
            gradient
        } else {
            self.value.detach().zeros_like()
        }
    }
}

/// One update's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Which update this is, from 1.
    pub step: usize,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the gradient's running mean.
    pub beta1: f64,
    /// Decay of the squared gradient's running mean.
    pub beta2: f64,
    /// What is added to the root.
    pub epsilon: f64,
    /// What every gradient is multiplied by first: the clipping.
    pub gradient_scale: f64,
}

/// What an optimiser remembers of each parameter, and how it moves them.
///
/// Why a seam: states in 8 bits, or paged ones, differ in nothing but this. They see the parameters, never the model.
pub trait States {
    /// Makes the states of these parameters, as before the first update.
    fn allocate(&mut self, params: &[Trained]);

    /// Moves every parameter.
    fn update(&mut self, params: &[Trained], update: &Update);

    /// Every state tensor under its name in `optimizer.safetensors`: handles that loading copies into.
    fn tensors(&self, params: &[Trained]) -> Vec<(String, Tensor)>;
}

/// The trainable parameters of a model with their states.
pub struct Optimizer {
    params: Vec<Trained>,
    states: Box<dyn States>,
    /// Updates made so far.
    step: usize,
    betas: (f64, f64),
    epsilon: f64,
}

impl Optimizer {
    /// Groups what trains in `model`, and allocates states for it alone.
    pub fn new(model: &(impl Parameters + ?Sized), config: &TrainConfig, mut states: Box<dyn States>) -> Result<Self> {
        let params: Vec<Trained> = named_params(model)
            .into_iter()
            .filter(|(_, param)| param.is_trainable())
            .map(|(path, param)| Trained {
                path: path.as_str().to_owned(),
                rate: rate(&param, config.loraplus_lr_ratio),
                weight_decay: if param.role() == Role::Norm {
                    0.0
                } else {
                    config.weight_decay
                },
                value: param.value().shallow_clone(),
            })
            .collect();
        if params.is_empty() {
            return Err(Error::NothingTrains);
        }
        states.allocate(&params);
        Ok(Self {
            params,
            states,
            step: 0,
            betas: (config.adam_beta1, config.adam_beta2),
            epsilon: config.adam_epsilon,
        })
    }

    /// The parameters that train, in the model's order.
    pub fn params(&self) -> &[Trained] {
        &self.params
    }

    /// Updates made so far.
    pub fn num_updates(&self) -> usize {
        self.step
    }

    /// Euclidean norm of all gradients together.
    pub fn gradient_norm(&self) -> f64 {
        let gradients: Vec<Tensor> = self.params.iter().map(|param| param.value.grad()).collect();
        kernels::adamw::grad_norm(&gradients.iter().collect::<Vec<_>>())
    }

    /// Moves the parameters by their gradients times `gradient_scale`, then empties the gradients.
    pub fn update(&mut self, learning_rate: f64, gradient_scale: f64) {
        self.step += 1;
        let update = Update {
            step: self.step,
            learning_rate,
            beta1: self.betas.0,
            beta2: self.betas.1,
            epsilon: self.epsilon,
            gradient_scale,
        };
        tch::no_grad(|| self.states.update(&self.params, &update));
        self.empty_gradients();
    }

    /// Sets the gradients to zero, keeping their memory for the next step.
    pub fn empty_gradients(&mut self) {
        for param in &mut self.params {
            param.value.zero_grad();
        }
    }

    /// The masters by path: handles on the parameters themselves.
    pub fn masters(&self) -> Vec<(String, Tensor)> {
        self.params
            .iter()
            .map(|param| (param.path.clone(), param.value.detach()))
            .collect()
    }

    /// The states by name: handles on the states themselves.
    pub fn states(&self) -> Vec<(String, Tensor)> {
        self.states.tensors(&self.params)
    }

    /// Continues counting updates after `step`.
    pub fn continue_from(&mut self, step: usize) {
        self.step = step;
    }

    /// Paths of the parameters that no gradient has reached yet.
    pub fn without_gradient(&self) -> Vec<&str> {
        self.params
            .iter()
            .filter(|param| !param.value.grad().defined())
            .map(|param| param.path.as_str())
            .collect()
    }

    /// The first parameter whose gradient is not finite.
    pub fn first_non_finite(&self) -> Option<&str> {
        self.params
            .iter()
            .find(|param| {
                let gradient = param.value.grad();
                gradient.defined() && gradient.isfinite().all().int64_value(&[]) == 0
            })
            .map(|param| param.path.as_str())
    }
}

/// The share of the learning rate that a parameter trains with.
fn rate(param: &Param, loraplus_lr_ratio: Option<f64>) -> f64 {
    match loraplus_lr_ratio {
        Some(ratio) if param.role() == Role::AdapterOut || param.value().dim() == 1 => ratio,
        _ => 1.0,
    }
}
