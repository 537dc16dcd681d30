//! A projection with a low-rank update beside it.

use tch::{Kind, Tensor};
use tensor_core::{Dense, Found, ModulePath, Param, Parameters, Pass, Projection};

use crate::LowRank;

/// `y = base(x) + s · (dropout(x) Aᵀ) Bᵀ` over any base: dense, packed, quantised or itself wrapped.
#[derive(Debug)]
pub struct Lora {
    base: Box<dyn Projection>,
    low_rank: LowRank,
    dropout: f64,
    site: u64,
}

impl Lora {
    /// `dropout` is the probability of dropping an input of the update; `site` names its random stream
    /// ([`ModulePath::site`]).
    pub fn new(base: Box<dyn Projection>, low_rank: LowRank, dropout: f64, site: u64) -> Self {
        Self {
            base,
            low_rank,
            dropout,
            site,
        }
    }

    /// The update.
    pub fn low_rank(&self) -> &LowRank {
        &self.low_rank
    }
}

impl Projection for Lora {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        if !pass.adapters_on() {
            return self.base.forward(x, pass);
        }
        let key = pass.dropout(self.site).filter(|_| self.dropout > 0.0);
        match (key, self.base.as_frozen()) {
            (None, Some(base)) => self.low_rank.over_frozen(base, x),
            (None, None) => self.base.forward(x, pass) + self.low_rank.branch(x),
            (Some(key), _) => {
                let dropped = kernels::dropout::dropout(x, self.dropout, key);
                self.base.forward(x, pass) + self.low_rank.branch(&dropped)
            }
        }
    }

    fn weight(&self) -> Tensor {
        self.base.weight().to_kind(Kind::Float) + self.low_rank.update()
    }

    fn merge(self: Box<Self>) -> Dense {
        let Self { base, low_rank, .. } = *self;
        let dense = base.merge();
        let (kind, role) = (dense.param().value().kind(), dense.param().role());
        // Summed in f32 whatever the base's dtype, and rounded once.
        let merged =
            dense.param().value().to_kind(Kind::Float) + low_rank.update().to_device(dense.param().value().device());
        Dense::new(Param::frozen(merged.to_kind(kind), role))
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found("a LoRA adapter"))
    }
}

impl Parameters for Lora {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        self.low_rank.visit(at, ".weight", visitor);
    }
}
