//! A token table with several updates beside it, of which the pass chooses.

use tch::{Kind, Tensor};
use tensor_core::{Embedding, Found, ModulePath, Param, Parameters, Pass, Table};

use super::shares::{Chosen, Updates};
use crate::embedding;

/// `row(token) + Σ w_i s_i B_i A_i[:, token]`, w the row's mix.
#[derive(Debug)]
pub(super) struct SwitchedTable {
    base: Box<dyn Embedding>,
    updates: Updates,
}

impl SwitchedTable {
    pub(super) fn new(base: Box<dyn Embedding>, updates: Updates) -> Self {
        Self { base, updates }
    }
}

impl Embedding for SwitchedTable {
    fn forward(&self, tokens: &Tensor, kind: Kind, pass: &Pass) -> Tensor {
        let rows = self.base.forward(tokens, kind, pass);
        match self.updates.chosen(pass, tokens.size()[0]) {
            Chosen::Nothing => rows,
            Chosen::One(update, weight) => {
                rows + embedding::rows(update, update.scale() * weight, tokens).to_kind(kind)
            }
            Chosen::Several(stacked) => {
                let columns = stacked.a.index_select(1, tokens).tr();
                rows + stacked.outer(&columns).to_kind(kind)
            }
        }
    }

    fn weight(&self) -> Tensor {
        let weight = self.base.weight().to_kind(Kind::Float);
        match self.updates.default_update() {
            Some(update) => weight + update.tr(),
            None => weight,
        }
    }

    fn merge(self: Box<Self>) -> Table {
        let Self { base, updates } = *self;
        let table = base.merge();
        let Some(update) = updates.default_update() else {
            return table;
        };
        let value = table.param().value();
        let merged = value.to_kind(Kind::Float) + update.tr().to_device(value.device());
        let merged = merged.to_kind(value.kind()).contiguous();
        Table::new(Param::frozen(merged, table.param().role()))
    }

    fn into_table(self: Box<Self>) -> Result<Table, Found> {
        Err(Found("several LoRA adapters"))
    }
}

impl Parameters for SwitchedTable {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        self.updates.visit(at, "embedding_", visitor);
    }
}
