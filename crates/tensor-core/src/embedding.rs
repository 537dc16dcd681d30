//! The seam for token embeddings: a table of rows, however it is held.
//!
//! Shapes: t tokens, v vocabulary, d model width.

use std::fmt::Debug;

use tch::{Kind, Tensor};

use crate::{Found, ModulePath, Param, Parameters, Pass, Result, autograd};

/// A table of token vectors.
pub trait Embedding: Parameters + Debug + Send {
    /// `[t]` i64 tokens to `[t, d]` in dtype `kind`.
    fn forward(&self, tokens: &Tensor, kind: Kind, pass: &Pass) -> Tensor;

    /// The effective table, dense, `[v, d]`.
    fn weight(&self) -> Tensor;

    /// The same function as one plain table.
    fn merge(self: Box<Self>) -> Table;

    /// The table itself, only if nothing wraps it; otherwise what was found.
    fn into_table(self: Box<Self>) -> Result<Table, Found>;
}

/// What is done to an embedding slot.
pub type EmbeddingSurgeon<'a> = dyn FnMut(&ModulePath, Box<dyn Embedding>) -> Result<Box<dyn Embedding>> + 'a;

/// A plain table `[v, d]`.
#[derive(Debug)]
pub struct Table {
    weight: Param,
}

impl Table {
    /// From a weight `[v, d]`.
    pub fn new(weight: Param) -> Self {
        Self { weight }
    }

    /// The table as a parameter.
    pub fn param(&self) -> &Param {
        &self.weight
    }

    /// The table as a parameter, giving up the embedding.
    pub fn into_param(self) -> Param {
        self.weight
    }
}

impl Embedding for Table {
    fn forward(&self, tokens: &Tensor, kind: Kind, _pass: &Pass) -> Tensor {
        let weight = self.weight.value();
        let rows = tch::no_grad(|| weight.index_select(0, tokens).to_kind(kind));
        if !autograd::wants(&[weight]) {
            return rows;
        }
        let tokens = tokens.shallow_clone();
        let table = weight.detach();
        autograd::attach(&[weight], rows, move |dy| {
            // `index_add_` touches the rows that occur; libtorch's own backward is many times slower.
            vec![dy.map(|dy| table.zeros_like().index_add_(0, &tokens, &dy.to_kind(Kind::Float)))]
        })
    }

    fn weight(&self) -> Tensor {
        self.weight.value().detach()
    }

    fn merge(self: Box<Self>) -> Table {
        *self
    }

    fn into_table(self: Box<Self>) -> Result<Table, Found> {
        Ok(*self)
    }
}

impl Parameters for Table {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        visitor(&at.join("weight"), &self.weight);
    }
}
