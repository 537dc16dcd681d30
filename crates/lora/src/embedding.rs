//! LoRA on a token table: `row(token) + s · B A[:, token]`, A zero at first, B drawn from N(0, 1).
//!
//! Shapes: t tokens, r rank, v vocabulary, d model width; A `[r, v]`, B `[d, r]`, as PEFT stores them.

use tch::{Kind, Tensor};
use tensor_core::{Embedding, Found, ModulePath, Param, Parameters, Pass, Table, autograd};

use crate::LowRank;

/// A token table with a low-rank update beside it.
#[derive(Debug)]
pub struct LoraEmbedding {
    base: Box<dyn Embedding>,
    low_rank: LowRank,
}

impl LoraEmbedding {
    /// Over `base` `[v, d]`.
    pub fn new(base: Box<dyn Embedding>, low_rank: LowRank) -> Self {
        Self { base, low_rank }
    }

    /// `[t]` tokens to their update `[t, d]`, in f32.
    fn update(&self, tokens: &Tensor) -> Tensor {
        rows(&self.low_rank, self.low_rank.scale(), tokens)
    }
}

/// `[t]` tokens to `scale · B A[:, token]`, `[t, d]` f32.
pub(crate) fn rows(low_rank: &LowRank, scale: f64, tokens: &Tensor) -> Tensor {
    let (a, b) = (low_rank.a().value(), low_rank.b().value());
    let columns = tch::no_grad(|| a.index_select(1, tokens).tr().contiguous() * scale);
    let y = tch::no_grad(|| columns.matmul(&b.tr()));
    if !autograd::wants(&[a, b]) {
        return y;
    }
    let (tokens, a_shape, held) = (tokens.shallow_clone(), a.detach(), b.detach());
    autograd::attach(&[a, b], y, move |dy| {
        let Some(dy) = dy else { return vec![None, None] };
        let da = a_shape
            .zeros_like()
            .index_add_(1, &tokens, &(dy.matmul(&held) * scale).tr().contiguous());
        vec![Some(da), Some(dy.tr().matmul(&columns))]
    })
}

impl Embedding for LoraEmbedding {
    fn forward(&self, tokens: &Tensor, kind: Kind, pass: &Pass) -> Tensor {
        let rows = self.base.forward(tokens, kind, pass);
        if pass.adapters_on() {
            rows + self.update(tokens).to_kind(kind)
        } else {
            rows
        }
    }

    fn weight(&self) -> Tensor {
        self.base.weight().to_kind(Kind::Float) + self.low_rank.update().tr()
    }

    fn merge(self: Box<Self>) -> Table {
        let Self { base, low_rank } = *self;
        let table = base.merge();
        let (kind, role) = (table.param().value().kind(), table.param().role());
        let merged = table.param().value().to_kind(Kind::Float) + low_rank.update().tr();
        Table::new(Param::frozen(merged.to_kind(kind).contiguous(), role))
    }

    fn into_table(self: Box<Self>) -> Result<Table, Found> {
        Err(Found("a LoRA adapter"))
    }
}

impl Parameters for LoraEmbedding {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        self.low_rank.visit_as(at, "", visitor);
    }
}
