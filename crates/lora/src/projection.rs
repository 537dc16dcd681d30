//! A projection with a low-rank update beside it.

use tch::{Kind, Tensor};
use tensor_core::{Dense, DropoutKey, Found, ModulePath, Param, Parameters, Parts, Pass, Projection, over_frozen};

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

    fn dropout_key(&self, pass: &Pass) -> Option<DropoutKey> {
        pass.dropout(self.site).filter(|_| self.dropout > 0.0)
    }
}

impl Projection for Lora {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        if let Some(parts) = self.parts(pass) {
            return over_frozen(x, &[parts]).pop().expect("one output");
        }
        let y = self.base.forward(x, pass);
        if !pass.adapters_on() {
            return y;
        }
        match self.dropout_key(pass) {
            Some(key) => y + self.low_rank.branch(&kernels::dropout::dropout(x, self.dropout, key)),
            None => y + self.low_rank.branch(x),
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

    fn parts(&self, pass: &Pass) -> Option<Parts<'_>> {
        let base = self.base.parts(pass).filter(Parts::is_plain)?;
        if !pass.adapters_on() {
            return Some(base);
        }
        let update = Some(self.low_rank.as_update(pass));
        self.dropout_key(pass).is_none().then_some(Parts { update, ..base })
    }
}

impl Parameters for Lora {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        self.low_rank.visit(at, visitor);
    }
}
