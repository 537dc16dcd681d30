//! A plain dense matrix: frozen (own backward, never in a graph, packed where the machine gains by it) or trainable.
//!
//! Shapes: t tokens, in and out widths. `y = x Wᵀ`; backward `dx = dy W`, `dW = dyᵀ x`.

use std::sync::OnceLock;

use tch::{Kind, Tensor};

use crate::packed::{self, PackedWeight, Term};
use crate::{Found, FrozenMap, ModulePath, Param, Parameters, Pass, Projection, autograd};

/// A matrix `[out, in]` as the checkpoint holds it.
#[derive(Debug)]
pub struct Dense {
    weight: Param,
    packed: OnceLock<Option<PackedWeight>>,
}

impl Dense {
    /// From a weight `[out, in]`.
    pub fn new(weight: Param) -> Self {
        Self {
            weight,
            packed: OnceLock::new(),
        }
    }

    /// The weight as a parameter.
    pub fn param(&self) -> &Param {
        &self.weight
    }

    /// The weight as a parameter, giving up the matrix.
    pub fn into_param(self) -> Param {
        self.weight
    }
}

impl FrozenMap for Dense {
    fn share(&self) -> Box<dyn FrozenMap + Send> {
        let packed = OnceLock::from(self.packed().cloned());
        Box::new(Self {
            weight: self.weight.share(),
            packed,
        })
    }

    fn apply(&self, x: &Tensor) -> Tensor {
        match self.packed().filter(|_| x.kind() == Kind::BFloat16) {
            Some(packed) => {
                packed::product(
                    &[Term {
                        x,
                        matrix: packed.forward(),
                        low_rank: None,
                    }],
                    None,
                )
                .0
            }
            None => x.matmul(&self.weight.value().tr()),
        }
    }

    fn apply_transposed(&self, y: &Tensor, onto: Option<Tensor>) -> Tensor {
        match (self.packed().filter(|_| y.kind() == Kind::BFloat16), onto) {
            (Some(packed), onto) => {
                packed::product(
                    &[Term {
                        x: y,
                        matrix: packed.transposed(),
                        low_rank: None,
                    }],
                    onto.as_ref(),
                )
                .0
            }
            (None, Some(onto)) => onto.addmm(y, self.weight.value()),
            (None, None) => y.matmul(self.weight.value()),
        }
    }

    fn packed(&self) -> Option<&PackedWeight> {
        self.packed
            .get_or_init(|| PackedWeight::pack(self.weight.value()))
            .as_ref()
    }
}

impl Projection for Dense {
    fn forward(&self, x: &Tensor, _pass: &Pass) -> Tensor {
        if self.weight.is_trainable() {
            return trained(x, &self.weight);
        }
        let y = tch::no_grad(|| self.apply(x));
        if !autograd::wants(&[x]) {
            return y;
        }
        let again = self.share();
        autograd::attach(&[x], y, move |dy| vec![dy.map(|dy| again.apply_transposed(&dy, None))])
    }

    fn weight(&self) -> Tensor {
        self.weight.value().detach()
    }

    fn merge(self: Box<Self>) -> Dense {
        *self
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Ok(*self)
    }

    fn as_frozen(&self) -> Option<&dyn FrozenMap> {
        (!self.weight.is_trainable()).then_some(self)
    }
}

impl Parameters for Dense {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        visitor(&at.join("weight"), &self.weight);
    }
}

/// `x Wᵀ` with the gradient of an f32 master computed from the compute dtype's own products.
fn trained(x: &Tensor, weight: &Param) -> Tensor {
    let compute = tch::no_grad(|| weight.cast(x.kind()));
    let y = tch::no_grad(|| x.matmul(&compute.tr()));
    if !autograd::wants(&[x, weight.value()]) {
        return y;
    }
    let wants_dx = x.requires_grad();
    let saved = x.shallow_clone();
    autograd::attach(&[x, weight.value()], y, move |dy| {
        let Some(dy) = dy else { return vec![None, None] };
        let dx = wants_dx.then(|| dy.matmul(&compute));
        let dw = dy.tr().matmul(&saved).to_kind(Kind::Float);
        vec![dx, Some(dw)]
    })
}
