//! AdamW with f32 states, all parameters in one fused loop, or one by one where states are paged.

use std::collections::BTreeMap;

use kernels::adamw::{Moving, Step, adamw};
use tch::{Kind, Tensor};

use crate::{Result, StateMemory, StateTensor, States, Trained, Update};

/// Both running means of every parameter, in f32: see [`kernels::adamw`].
#[derive(Debug, Default)]
pub struct AdamW {
    memory: StateMemory,
    means: Vec<StateTensor>,
    squares: Vec<StateTensor>,
}

impl AdamW {
    /// With its states in `memory`.
    pub fn new(memory: StateMemory) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }
}

impl States for AdamW {
    fn allocate(&mut self, params: &[Trained]) -> Result<()> {
        let zeros = |param: &Trained| {
            let value = &param.value;
            self.memory.zeros(&value.size(), Kind::Float, value.device())
        };
        let all = || params.iter().map(zeros).collect::<Result<_>>();
        (self.means, self.squares) = (all()?, all()?);
        Ok(())
    }

    fn update(&mut self, params: &[Trained], update: &Update) {
        if self.memory.is_paged() {
            for (idx, param) in params.iter().enumerate() {
                let device = param.value.device();
                let states = [self.means[idx].on(device), self.squares[idx].on(device)];
                step(&[(param, &states[0], &states[1])], update);
                self.means[idx].put(&states[0]);
                self.squares[idx].put(&states[1]);
            }
            return;
        }
        let states = self.means.iter().zip(&self.squares);
        let all: Vec<_> = params
            .iter()
            .zip(states)
            .map(|(param, (mean, square))| (param, mean.tensor(), square.tensor()))
            .collect();
        step(&all, update);
    }

    fn tensors(&self, params: &[Trained]) -> Vec<(String, Tensor)> {
        let named = |tensors: &[StateTensor], name: &str| -> Vec<_> {
            params
                .iter()
                .zip(tensors)
                .map(|(param, state)| (format!("{}.{name}", param.path), state.tensor().shallow_clone()))
                .collect()
        };
        let mut tensors = named(&self.means, "exp_avg");
        tensors.extend(named(&self.squares, "exp_avg_sq"));
        tensors
    }
}

/// Moves parameters with their running means by one update.
fn step(moved: &[(&Trained, &Tensor, &Tensor)], update: &Update) {
    let values: Vec<Tensor> = moved.iter().map(|(param, ..)| param.value.detach()).collect();
    let gradients: Vec<Tensor> = moved.iter().map(|(param, ..)| param.gradient()).collect();
    // The running means of parameters that began later are younger, and so is their correction.
    let mut by_age: BTreeMap<usize, Vec<Moving>> = BTreeMap::new();
    for (i, &(param, first, second)) in moved.iter().enumerate() {
        by_age.entry(update.step - param.since).or_default().push(Moving {
            value: &values[i],
            gradient: &gradients[i],
            first,
            second,
            learning_rate: update.learning_rate * param.rate,
            weight_decay: param.weight_decay,
        });
    }
    for (age, moving) in by_age {
        let step = Step {
            number: age as u64,
            beta1: update.beta1,
            beta2: update.beta2,
            eps: update.epsilon,
            gradient_scale: update.gradient_scale,
        };
        adamw(&moving, &step);
    }
}
