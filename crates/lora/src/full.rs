//! A module trained whole beside its frozen original: PEFT's `modules_to_save`.
//!
//! The original stays, so that switching adapters off gives the base back.

use tch::{Kind, Tensor};
use tensor_core::{Dense, Embedding, Found, ModulePath, Param, Parameters, Pass, Projection, Role, Table};

/// A projection replaced by a trained copy of its weight while adapters are on.
#[derive(Debug)]
pub struct FullUpdate {
    base: Box<dyn Projection>,
    trained: Dense,
}

impl FullUpdate {
    /// Starts from `weight` `[out, in]`, usually the base's own.
    pub fn new(base: Box<dyn Projection>, weight: &Tensor) -> Self {
        Self {
            base,
            trained: Dense::new(Param::trainable(weight, Role::Adapter)),
        }
    }
}

impl Projection for FullUpdate {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        if pass.adapters_on() {
            self.trained.forward(x, pass)
        } else {
            self.base.forward(x, pass)
        }
    }

    fn weight(&self) -> Tensor {
        Projection::weight(&self.trained)
    }

    fn merge(self: Box<Self>) -> Dense {
        let dense = self.base.merge();
        let merged = self
            .trained
            .param()
            .value()
            .detach()
            .to_kind(dense.param().value().kind());
        Dense::new(Param::frozen(merged, dense.param().role()))
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found("a module that is trained whole"))
    }
}

impl Parameters for FullUpdate {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        visitor(&at.join("modules_to_save.weight"), self.trained.param());
    }
}

/// A token table replaced by a trained copy while adapters are on.
#[derive(Debug)]
pub struct FullTable {
    base: Box<dyn Embedding>,
    trained: Table,
}

impl FullTable {
    /// Starts from `weight` `[v, d]`.
    pub fn new(base: Box<dyn Embedding>, weight: &Tensor) -> Self {
        Self {
            base,
            trained: Table::new(Param::trainable(weight, Role::Adapter)),
        }
    }
}

impl Embedding for FullTable {
    fn forward(&self, tokens: &Tensor, kind: Kind, pass: &Pass) -> Tensor {
        if pass.adapters_on() {
            self.trained.forward(tokens, kind, pass)
        } else {
            self.base.forward(tokens, kind, pass)
        }
    }

    fn weight(&self) -> Tensor {
        Embedding::weight(&self.trained)
    }

    fn merge(self: Box<Self>) -> Table {
        let table = self.base.merge();
        let merged = self
            .trained
            .param()
            .value()
            .detach()
            .to_kind(table.param().value().kind());
        Table::new(Param::frozen(merged, table.param().role()))
    }

    fn into_table(self: Box<Self>) -> Result<Table, Found> {
        Err(Found("a table that is trained whole"))
    }
}

impl Parameters for FullTable {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        visitor(&at.join("modules_to_save.weight"), self.trained.param());
    }
}
