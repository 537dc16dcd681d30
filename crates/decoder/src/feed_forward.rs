//! The gated feed-forward: `down(act(gate(x)) · up(x))`, with `SiLU` (SwiGLU) or GELU's tanh form (`GeGLU`).
//!
//! Source: Shazeer 2020, arXiv:2002.05202. Shapes: t tokens, d model width, f inner width.

use kernels::Activation;
use tch::Tensor;
use tensor_core::{Linear, ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Result, Sublayer, project};

/// A gated feed-forward: the second sublayer of a block.
#[derive(Debug)]
pub struct SwiGlu {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    activation: Activation,
}

impl SwiGlu {
    /// From gate and up `[f, d]` and down `[d, f]`.
    pub fn new(gate_proj: Linear, up_proj: Linear, down_proj: Linear, activation: Activation) -> Self {
        Self {
            gate_proj,
            up_proj,
            down_proj,
            activation,
        }
    }

    /// What the gate goes through.
    pub fn activation(&self) -> Activation {
        self.activation
    }
}

impl Sublayer for SwiGlu {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let [gate, up] = project(x, [&self.gate_proj, &self.up_proj], pass);
        let inner = kernels::gated(self.activation, &gate, &up);
        drop((gate, up));
        self.down_proj.forward(&inner, pass)
    }

    fn map_projections(self: Box<Self>, at: &ModulePath, surgeon: &mut ProjectionSurgeon) -> Result<Box<dyn Sublayer>> {
        Ok(Box::new(Self {
            gate_proj: self.gate_proj.map(&at.join("gate_proj"), surgeon)?,
            up_proj: self.up_proj.map(&at.join("up_proj"), surgeon)?,
            down_proj: self.down_proj.map(&at.join("down_proj"), surgeon)?,
            activation: self.activation,
        }))
    }
}

impl Parameters for SwiGlu {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.gate_proj.visit(&at.join("gate_proj"), visitor);
        self.up_proj.visit(&at.join("up_proj"), visitor);
        self.down_proj.visit(&at.join("down_proj"), visitor);
    }
}
