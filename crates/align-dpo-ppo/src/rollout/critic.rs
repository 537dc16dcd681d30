//! The critic: one number a token, read from the policy's own hidden states.
//!
//! Policy and critic share one body, so that a run holds one model (Ziegler et al. 2019 train them so too). The head
//! begins at zero: the first advantages are those of the rewards alone.
//!
//! Shapes: t tokens, d model width.

use tch::{Device, Kind, Tensor};
use tensor_core::{LanguageModel, Linear, ModulePath, Param, Parameters, Pass, Role};

/// `V = h·w + b`.
#[derive(Debug)]
pub struct ValueHead {
    weight: Param,
    bias: Param,
}

impl ValueHead {
    /// A head that says 0, for hidden states of this width.
    pub fn zeros(width: i64, device: Device) -> Self {
        let zeros = |size: i64| Tensor::zeros([size], (Kind::Float, device));
        Self {
            weight: Param::trainable(&zeros(width), Role::Head),
            bias: Param::trainable(&zeros(1), Role::Head),
        }
    }

    /// A head that begins where a reward model's stands: `direction` is `[d]`.
    pub fn from_direction(direction: &Tensor, device: Device) -> Self {
        let weight = direction.to_kind(Kind::Float).to_device(device);
        Self {
            weight: Param::trainable(&weight, Role::Head),
            ..Self::zeros(1, device)
        }
    }

    /// As TRL's models with a value head name them: `v_head.summary.weight` `[1, d]` and `v_head.summary.bias` `[1]`.
    pub fn tensors(&self) -> [(&'static str, Tensor); 2] {
        [
            ("v_head.summary.weight", self.weight.value().detach().view([1, -1])),
            ("v_head.summary.bias", self.bias.value().detach()),
        ]
    }

    /// `[t]` f32 values of hidden states `[t, d]`, differentiably.
    pub fn values(&self, hidden: &Tensor) -> Tensor {
        hidden.to_kind(Kind::Float).mv(self.weight.value()) + self.bias.value()
    }

    /// A second handle on the same numbers.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            weight: self.weight.share(),
            bias: self.bias.share(),
        }
    }
}

impl Parameters for ValueHead {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        visitor(&at.join("weight"), &self.weight);
        visitor(&at.join("bias"), &self.bias);
    }
}

/// A policy with its critic, as one model that trains.
pub struct WithValues<'a> {
    /// The policy.
    pub policy: &'a dyn LanguageModel,
    /// The critic's head.
    pub head: &'a ValueHead,
}

impl Parameters for WithValues<'_> {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.policy.visit(at, visitor);
        self.head.visit(&at.join("v_head.summary"), visitor);
    }
}

impl LanguageModel for WithValues<'_> {
    fn num_blocks(&self) -> usize {
        self.policy.num_blocks()
    }

    fn embed(&self, tokens: &Tensor, pass: &Pass) -> Tensor {
        self.policy.embed(tokens, pass)
    }

    fn block(&self, idx: usize, hidden: &Tensor, pass: &Pass) -> Tensor {
        self.policy.block(idx, hidden, pass)
    }

    fn norm(&self, hidden: &Tensor, pass: &Pass) -> Tensor {
        self.policy.norm(hidden, pass)
    }

    fn head(&self) -> &Linear {
        self.policy.head()
    }
}
