//! A plain dense matrix: frozen (own backward, never in a graph, packed where the machine gains by it) or trainable.
//!
//! Shapes: t tokens, in and out widths. `y = x Wᵀ`; backward `dx = dy W`, `dW = dyᵀ x`.

use tch::{Kind, Tensor};

use crate::packed::{self, PackedMatrix, Term};
use crate::{Found, FrozenMap, ModulePath, Param, Parameters, Parts, Pass, Projection, Way, autograd, over_frozen};

/// A matrix `[out, in]` as the checkpoint holds it.
#[derive(Debug)]
pub struct Dense {
    weight: Param,
}

impl Dense {
    /// From a weight `[out, in]`.
    pub fn new(weight: Param) -> Self {
        Self { weight }
    }

    /// The weight as a parameter.
    pub fn param(&self) -> &Param {
        &self.weight
    }

    /// The weight as a parameter, giving up the matrix.
    pub fn into_param(self) -> Param {
        self.weight
    }

    fn applied(&self, x: &Tensor, way: Way, onto: Option<&Tensor>) -> Option<Tensor> {
        let matrix = self.packed(way).filter(|_| x.kind() == Kind::BFloat16)?;
        Some(
            packed::product(
                &[Term {
                    x,
                    matrix: &matrix,
                    low_rank: None,
                }],
                onto,
            )
            .0,
        )
    }
}

impl FrozenMap for Dense {
    fn share(&self) -> Box<dyn FrozenMap + Send> {
        Box::new(Self {
            weight: self.weight.share(),
        })
    }

    fn apply(&self, x: &Tensor) -> Tensor {
        self.applied(x, Way::Forward, None)
            .unwrap_or_else(|| x.matmul(&self.weight.value().tr()))
    }

    fn apply_transposed(&self, y: &Tensor, onto: Option<Tensor>) -> Tensor {
        self.applied(y, Way::Transposed, onto.as_ref())
            .unwrap_or_else(|| match onto {
                Some(onto) => onto.addmm(y, self.weight.value()),
                None => y.matmul(self.weight.value()),
            })
    }

    fn packed(&self, way: Way) -> Option<PackedMatrix> {
        self.weight.packed(way)
    }
}

impl Projection for Dense {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        match self.parts(pass) {
            Some(parts) => over_frozen(x, &[parts]).pop().expect("one output"),
            None => trained(x, &self.weight),
        }
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

    fn parts(&self, _pass: &Pass) -> Option<Parts<'_>> {
        (!self.weight.is_trainable()).then(|| Parts::frozen(self))
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
