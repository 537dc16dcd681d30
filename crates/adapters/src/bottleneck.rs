//! The adapter itself: two matrices, two biases, and a scale, with a backward pass of its own.
//!
//! `u = x W_downᵀ + b_down`, `z = φ(u)`, `y = s (z W_upᵀ + b_up)`. Backward, with `e = s·dy`: `dW_up = eᵀ z`, `db_up = Σ e`,
//! `du = (e W_up) φ'(u)`, `dW_down = duᵀ x`, `db_down = Σ du`, `dx = du W_down`, and
//! `ds = Σ (dyᵀ z) ∘ W_up + Σ dy · b_up`. Only x and u are kept.
//!
//! Shapes: t tokens, d model width, m bottleneck; `W_down` `[m, d]`, `W_up` `[d, m]`.

use tch::{Kind, Tensor};
use tensor_core::{DropoutKey, ModulePath, Param, Parameters, Role, autograd, packed};

use crate::Activation;

/// One adapter: f32 masters, computed in the dtype of what it reads.
#[derive(Debug)]
pub struct Bottleneck {
    down: Param,
    down_bias: Param,
    up: Param,
    up_bias: Param,
    scale: Scale,
    activation: Activation,
}

#[derive(Debug)]
enum Scale {
    Fixed(f64),
    /// `[1]`
    Learned(Param),
}

/// The scale's value in one pass.
enum Factor {
    Number(f64),
    /// Without dimensions, so that it does not widen what it is multiplied with; its value is never waited for.
    Tensor(Tensor),
}

impl Scale {
    fn now(&self) -> Factor {
        match self {
            Self::Fixed(scale) => Factor::Number(*scale),
            // A copy: the master may move before the backward pass is over.
            Self::Learned(scale) => Factor::Tensor(scale.value().detach().copy().squeeze()),
        }
    }
}

impl Factor {
    fn times(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Number(scale) => x * *scale,
            Self::Tensor(scale) => x * scale,
        }
    }
}

impl Bottleneck {
    /// From `W_down` `[m, d]` and `W_up` `[d, m]`; biases are zeros, the scale is 1.
    pub fn new(down: &Tensor, up: &Tensor, activation: Activation) -> Self {
        let zeros = |of: &Tensor| Tensor::zeros([of.size()[0]], (Kind::Float, of.device()));
        Self {
            down: Param::trainable(down, Role::Adapter),
            down_bias: Param::trainable(&zeros(down), Role::Norm),
            up: Param::trainable(up, Role::Adapter),
            up_bias: Param::trainable(&zeros(up), Role::Norm),
            scale: Scale::Fixed(1.0),
            activation,
        }
    }

    /// The same with these biases, `[m]` and `[d]`.
    #[must_use]
    pub fn with_biases(self, down: &Tensor, up: &Tensor) -> Self {
        Self {
            down_bias: Param::trainable(down, Role::Norm),
            up_bias: Param::trainable(up, Role::Norm),
            ..self
        }
    }

    /// The same with its output multiplied by `scale`.
    #[must_use]
    pub fn with_scale(self, scale: f64) -> Self {
        Self {
            scale: Scale::Fixed(scale),
            ..self
        }
    }

    /// The same with a scale that trains, from the `[1]` tensor `scale`.
    #[must_use]
    pub fn with_learned_scale(self, scale: &Tensor) -> Self {
        Self {
            scale: Scale::Learned(Param::trainable(scale, Role::Adapter)),
            ..self
        }
    }

    /// d and m.
    pub fn widths(&self) -> (i64, i64) {
        let size = self.down.value().size();
        (size[1], size[0])
    }

    /// `s (φ(x W_downᵀ + b_down) W_upᵀ + b_up)`, `[t, d]` to `[t, d]`, with each number dropped with probability `p` if
    /// a key is given.
    pub fn forward(&self, x: &Tensor, dropout: Option<(f64, DropoutKey)>) -> Tensor {
        let y = self.branch(x);
        match dropout {
            Some((p, key)) => kernels::dropout::dropout(&y, p, key),
            None => y,
        }
    }

    fn branch(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let learned = match &self.scale {
            Scale::Fixed(_) => None,
            Scale::Learned(scale) => Some(scale),
        };
        let in_kind = |param: &Param| tch::no_grad(|| param.cast(kind).detach());
        let (down, up) = (in_kind(&self.down), in_kind(&self.up));
        let (down_bias, up_bias) = (in_kind(&self.down_bias), in_kind(&self.up_bias));
        let scale = self.scale.now();
        let activation = self.activation;
        let (y, u) = tch::no_grad(|| {
            let u = down_bias.addmm(x, &down.tr());
            let y = up_bias.addmm(&activation.of(&u), &up.tr());
            (scale.times(&y), u)
        });
        let params = [&self.down, &self.down_bias, &self.up, &self.up_bias];
        let mut inputs = vec![x];
        inputs.extend(params.into_iter().chain(learned).map(Param::value));
        if !autograd::wants(&inputs) {
            return y;
        }
        let (saved, wants_dx, is_learned) = (x.detach(), x.requires_grad(), learned.is_some());
        autograd::attach(&inputs, y, move |dy| {
            let Some(dy) = dy else {
                return (0..5 + usize::from(is_learned)).map(|_| None).collect();
            };
            let z = activation.of(&u);
            let sum = |x: &Tensor| x.sum_dim_intlist([0].as_slice(), false, Kind::Float);
            // Without the scale: both the scale's own gradient and, times it, the others' come of these.
            let (d_up, d_bias) = (packed::outer(&z, &dy).tr().contiguous(), sum(&dy));
            let ds = is_learned.then(|| {
                let along =
                    (&d_up * up.to_kind(Kind::Float)).sum(Kind::Float) + d_bias.dot(&up_bias.to_kind(Kind::Float));
                along.view([1])
            });
            let du = activation.backward(&u, &scale.times(&dy.matmul(&up)));
            let dx = wants_dx.then(|| du.matmul(&down));
            let d_down = packed::outer(&du, &saved);
            let (d_up, d_bias) = (scale.times(&d_up), scale.times(&d_bias));
            let mut gradients = vec![dx, Some(d_down), Some(sum(&du)), Some(d_up), Some(d_bias)];
            if is_learned {
                gradients.push(ds);
            }
            gradients
        })
    }
}

impl Parameters for Bottleneck {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        visitor(&at.join("adapter_down.0.weight"), &self.down);
        visitor(&at.join("adapter_down.0.bias"), &self.down_bias);
        visitor(&at.join("adapter_up.weight"), &self.up);
        visitor(&at.join("adapter_up.bias"), &self.up_bias);
        if let Scale::Learned(scale) = &self.scale {
            visitor(&at.join("scaling"), scale);
        }
    }
}
