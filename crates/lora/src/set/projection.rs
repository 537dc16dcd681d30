//! A projection with several updates beside it, of which the pass chooses.

use tch::{Kind, Tensor};
use tensor_core::{Dense, Found, ModulePath, Param, Parameters, Parts, Pass, Projection, Update, over_frozen};

use super::shares::{Chosen, Updates};

/// `y = base(x) + Σ w_i s_i (x A_iᵀ) B_iᵀ`, w the row's mix.
#[derive(Debug)]
pub(super) struct SwitchedLora {
    base: Box<dyn Projection>,
    updates: Updates,
}

impl SwitchedLora {
    pub(super) fn new(base: Box<dyn Projection>, updates: Updates) -> Self {
        Self { base, updates }
    }
}

impl Projection for SwitchedLora {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        if let Some(parts) = self.parts(pass) {
            return over_frozen(x, &[parts]).pop().expect("one output");
        }
        let y = self.base.forward(x, pass);
        let (a, stacked) = match self.updates.chosen(pass, x.size()[0]) {
            Chosen::Nothing => return y,
            Chosen::One(update, weight) => {
                let (a, b) = (update.a().cast(x.kind()), update.b().cast(x.kind()));
                return y + (x.matmul(&a.tr()) * (update.scale() * weight)).matmul(&b.tr());
            }
            Chosen::Several(stacked) => (stacked.a.to_kind(x.kind()), stacked),
        };
        y + stacked.outer(&x.matmul(&a.tr()))
    }

    fn weight(&self) -> Tensor {
        let weight = self.base.weight().to_kind(Kind::Float);
        match self.updates.default_update() {
            Some(update) => weight + update,
            None => weight,
        }
    }

    fn merge(self: Box<Self>) -> Dense {
        let Self { base, updates } = *self;
        let dense = base.merge();
        let Some(update) = updates.default_update() else {
            return dense;
        };
        let value = dense.param().value();
        let merged = value.to_kind(Kind::Float) + update.to_device(value.device());
        Dense::new(Param::frozen(merged.to_kind(value.kind()), dense.param().role()))
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found("several LoRA adapters"))
    }

    fn parts(&self, pass: &Pass) -> Option<Parts<'_>> {
        let chosen = self.updates.simple(pass)?;
        let base = self.base.parts(pass).filter(|parts| parts.update.is_none())?;
        Some(match chosen {
            Chosen::One(update, weight) => Parts {
                update: Some(Update {
                    a: update.a(),
                    b: update.b(),
                    scale: update.scale() * weight,
                    still: pass.frozen_cache().cloned(),
                }),
                ..base
            },
            _ => base,
        })
    }
}

impl Parameters for SwitchedLora {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        self.updates.visit(at, "", visitor);
    }
}
