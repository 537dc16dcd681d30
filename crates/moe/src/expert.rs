//! One expert: a gated feed-forward in three slots.
//!
//! Shapes: t tokens, d model width, f inner width.

use kernels::Activation;
use tch::Tensor;
use tensor_core::{Dense, Linear, ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Result, Role, project};

/// What the checkpoints of a family call an expert's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `w1`, `w3`, `w2`.
    Mixtral,
    /// `gate_proj`, `up_proj`, `down_proj`.
    Qwen,
}

impl Names {
    /// Gate, up, down.
    pub fn all(self) -> [&'static str; 3] {
        match self {
            Self::Mixtral => ["w1", "w3", "w2"],
            Self::Qwen => ["gate_proj", "up_proj", "down_proj"],
        }
    }
}

/// `down(act(gate(x)) · up(x))`.
#[derive(Debug)]
pub struct Expert {
    /// Gate and up `[f, d]`, down `[d, f]`.
    slots: [Linear; 3],
    names: Names,
    activation: Activation,
}

impl Expert {
    /// From gate and up `[f, d]` and down `[d, f]`.
    pub fn new(slots: [Linear; 3], names: Names, activation: Activation) -> Self {
        Self {
            slots,
            names,
            activation,
        }
    }

    /// Gate, up, down.
    pub fn slots(&self) -> &[Linear; 3] {
        &self.slots
    }

    /// What its matrices are called.
    pub fn names(&self) -> Names {
        self.names
    }

    /// What the gate goes through.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// A second expert of the same function; plain matrices share their memory, biases too.
    pub(crate) fn copy(&self) -> Self {
        let slot = |slot: &Linear| {
            let weight = Param::frozen(slot.projection().weight(), Role::Base);
            Linear::new(Dense::new(weight), slot.bias().map(Param::share))
        };
        Self {
            slots: self.slots.each_ref().map(slot),
            ..*self
        }
    }

    /// `[t, d]` to `[t, d]`.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let [gate, up, down] = &self.slots;
        let [gate, up] = project(x, [gate, up], pass);
        let inner = kernels::gated(self.activation, &gate, &up);
        drop((gate, up));
        down.forward(&inner, pass)
    }

    /// Replaces each projection by what the surgeon makes of it; `at` is the expert's path.
    pub fn map_projections(self, at: &ModulePath, surgeon: &mut ProjectionSurgeon) -> Result<Self> {
        let [gate, up, down] = self.slots;
        let names = self.names.all();
        let slots = [
            gate.map(&at.join(names[0]), surgeon)?,
            up.map(&at.join(names[1]), surgeon)?,
            down.map(&at.join(names[2]), surgeon)?,
        ];
        Ok(Self { slots, ..self })
    }
}

impl Parameters for Expert {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        for (slot, name) in self.slots.iter().zip(self.names.all()) {
            slot.visit(&at.join(name), visitor);
        }
    }
}
