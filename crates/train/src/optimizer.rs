//! What moves the parameters: groups by role, one set of states, the gradient's norm.
//!
//! Norms and biases are not decayed; everything else is, adapters included, as in Transformers' `Trainer`. With LoRA+
//! (Hayou et al. 2024, arXiv:2402.12354) the second factor of an adapter, and every vector, learns `ratio` times
//! faster, as in PEFT's `create_loraplus_optimizer`.

use std::collections::{BTreeMap, BTreeSet};

use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Param, Parameters, Role, named_params};

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
    /// Updates made before it began to train: its own first update is the next one.
    pub since: usize,
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
    /// Which update of the run this is, from 1; a parameter counts its own from [`Trained::since`].
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
    ///
    /// Errors: no room for them, where they lie on a disk.
    fn allocate(&mut self, params: &[Trained]) -> Result<()>;

    /// Moves every parameter.
    fn update(&mut self, params: &[Trained], update: &Update);

    /// Every state tensor under its name in `optimizer.safetensors`, which begins with its parameter's path and a dot:
    /// handles that loading copies into.
    fn tensors(&self, params: &[Trained]) -> Vec<(String, Tensor)>;
}

/// The trainable parameters of a model with their states.
pub struct Optimizer {
    params: Vec<Trained>,
    states: Box<dyn States>,
    /// The f32 masters of parameters that trained in an earlier round and are frozen now.
    aside: BTreeMap<String, Tensor>,
    /// Updates made so far.
    step: usize,
    betas: (f64, f64),
    epsilon: f64,
    weight_decay: f64,
    loraplus_lr_ratio: Option<f64>,
}

impl Optimizer {
    /// Groups what trains in `model`, and allocates states for it alone; an error if nothing does.
    pub fn new(model: &(impl Parameters + ?Sized), config: &TrainConfig, states: Box<dyn States>) -> Result<Self> {
        let optimizer = Self::of_any(model, config, states)?;
        match optimizer.params.is_empty() {
            true => Err(Error::NothingTrains),
            false => Ok(optimizer),
        }
    }

    /// As [`Self::new`], of a model in which perhaps no parameter trains.
    pub(crate) fn of_any(
        model: &(impl Parameters + ?Sized),
        config: &TrainConfig,
        states: Box<dyn States>,
    ) -> Result<Self> {
        let mut optimizer = Self {
            params: Vec::new(),
            states,
            aside: BTreeMap::new(),
            step: 0,
            betas: (config.adam_beta1, config.adam_beta2),
            epsilon: config.adam_epsilon,
            weight_decay: config.weight_decay,
            loraplus_lr_ratio: config.loraplus_lr_ratio,
        };
        optimizer.params = optimizer.trained(model, &BTreeMap::new());
        optimizer.states.allocate(&optimizer.params)?;
        Ok(optimizer)
    }

    /// What trains in `model`, grouped; `since` knows those that trained before.
    fn trained(&self, model: &(impl Parameters + ?Sized), since: &BTreeMap<String, usize>) -> Vec<Trained> {
        let trained = named_params(model)
            .into_iter()
            .filter(|(_, param)| param.is_trainable());
        trained
            .map(|(path, param)| Trained {
                since: since.get(path.as_str()).copied().unwrap_or(self.step),
                path: path.as_str().to_owned(),
                rate: rate(&param, self.loraplus_lr_ratio),
                weight_decay: if param.role() == Role::Norm {
                    0.0
                } else {
                    self.weight_decay
                },
                value: param.value().shallow_clone(),
            })
            .collect()
    }

    /// Freezes what `frozen` names, in dtype `kind`, and trains everything else of `model`.
    ///
    /// What trains on keeps its states; what begins to train gets new ones. What is frozen loses its gradient and its
    /// states; its f32 master is set aside, so that training it again goes on from there.
    pub fn redraw(
        &mut self,
        model: &(impl Parameters + ?Sized),
        frozen: &BTreeSet<ModulePath>,
        kind: Kind,
    ) -> Result<()> {
        let mut since: BTreeMap<String, usize> = self.since();
        let mut states = self.states.tensors(&self.params);
        let changed = named_params(model)
            .into_iter()
            .map(|(path, param)| (!frozen.contains(&path), path, param))
            .filter(|(trains, _, param)| *trains != param.is_trainable());
        let mut changes = false;
        for (trains, path, param) in changed {
            changes = true;
            let name = path.as_str();
            if trains {
                let master = self.aside.remove(name);
                let copy = || Param::trainable(param.value(), param.role()).value().detach();
                param.train_in_place(&master.unwrap_or_else(copy));
            } else {
                let master = param.value().detach();
                param.freeze_in_place(&master.to_kind(kind));
                self.aside.insert(name.to_owned(), master);
                since.remove(name);
                let own = format!("{name}.");
                states.retain(|(state, _)| !state.starts_with(&own));
            }
        }
        if !changes {
            return Ok(());
        }
        // States that end are freed before new ones are made.
        self.params.clear();
        self.states.allocate(&self.params)?;
        self.params = self.trained(model, &since);
        if self.params.is_empty() {
            return Err(Error::NothingTrains);
        }
        self.states.allocate(&self.params)?;
        let kept: BTreeMap<String, Tensor> = states.into_iter().collect();
        for (name, mut state) in self.states.tensors(&self.params) {
            if let Some(held) = kept.get(&name) {
                tch::no_grad(|| state.copy_(held));
            }
        }
        Ok(())
    }

    /// What trains, and the updates made before it began to.
    pub fn since(&self) -> BTreeMap<String, usize> {
        let since = self.params.iter().map(|param| (param.path.clone(), param.since));
        since.collect()
    }

    /// Names of the parameters that trained in an earlier round and are frozen now.
    pub fn set_aside(&self) -> BTreeSet<String> {
        self.aside.keys().cloned().collect()
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

    /// Moves the parameters by their gradients times `gradient_scale`, then empties the gradients; the update's numbers.
    pub fn update(&mut self, learning_rate: f64, gradient_scale: f64) -> Update {
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
        update
    }

    /// Sets the gradients to zero, keeping their memory for the next step.
    pub fn empty_gradients(&mut self) {
        for param in &mut self.params {
            param.value.zero_grad();
        }
    }

    /// The masters by path, those set aside too: handles on the parameters themselves.
    pub fn masters(&self) -> Vec<(String, Tensor)> {
        let trained = self
            .params
            .iter()
            .map(|param| (param.path.clone(), param.value.detach()));
        let aside = self
            .aside
            .iter()
            .map(|(path, master)| (path.clone(), master.shallow_clone()));
        trained.chain(aside).collect()
    }

    /// The states by name: handles on the states themselves.
    pub fn states(&self) -> Vec<(String, Tensor)> {
        self.states.tensors(&self.params)
    }

    /// Continues counting updates after `step`.
    pub fn continue_from(&mut self, step: usize) {
        self.step = step;
    }

    /// Makes ready for a checkpoint of a later round: what trains since when, and what was set aside before.
    ///
    /// Whoever copies the checkpoint's numbers into [`Self::masters`] calls [`Self::settle_aside`] then.
    pub fn continue_round(
        &mut self,
        model: &(impl Parameters + ?Sized),
        since: &BTreeMap<String, usize>,
        aside: &BTreeSet<String>,
    ) {
        for param in &mut self.params {
            param.since = since.get(&param.path).copied().unwrap_or(param.since);
        }
        for (path, param) in named_params(model) {
            let name = path.as_str();
            if aside.contains(name) && !self.aside.contains_key(name) {
                let master = Param::trainable(param.value(), param.role()).value().detach();
                self.aside.insert(name.to_owned(), master);
            }
        }
    }

    /// Gives frozen parameters the values of their masters, in dtype `kind`.
    pub fn settle_aside(&self, model: &(impl Parameters + ?Sized), kind: Kind) {
        for (path, param) in named_params(model) {
            if let Some(master) = self.aside.get(path.as_str()) {
                param.freeze_in_place(&master.to_kind(kind));
            }
        }
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
