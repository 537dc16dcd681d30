//! A model from its first memory up: everything below is frozen, so each document's stream there was kept.

use std::collections::HashMap;

use decoder::Decoder;
use tch::Tensor;
use tensor_core::{LanguageModel, Linear, ModulePath, Param, Parameters, Pass};

use super::prepare::Prepared;

/// The blocks of `model` from the first memory on, over streams that were kept; the whole model where none were.
pub(super) struct Tail<'a> {
    model: &'a Decoder,
    from: usize,
    streams: &'a HashMap<Vec<i64>, Tensor>,
}

impl<'a> Tail<'a> {
    /// Of a model that was prepared so.
    pub(super) fn new(model: &'a Decoder, prepared: &'a Prepared) -> Self {
        Self {
            model,
            from: if prepared.streams.is_empty() { 0 } else { prepared.from },
            streams: &prepared.streams,
        }
    }

    /// The row's stream, if every document's was kept.
    fn kept(&self, tokens: &Tensor, pass: &Pass) -> Option<Tensor> {
        let tokens = Vec::<i64>::try_from(tokens.to_device(tch::Device::Cpu)).ok()?;
        let parts: Option<Vec<&Tensor>> = pass
            .documents()
            .ranges()
            .map(|range| self.streams.get(&tokens[range]))
            .collect();
        Some(Tensor::cat(&parts?, 0))
    }
}

impl LanguageModel for Tail<'_> {
    fn num_blocks(&self) -> usize {
        self.model.num_blocks() - self.from
    }

    fn embed(&self, tokens: &Tensor, pass: &Pass) -> Tensor {
        if self.from == 0 {
            return self.model.embed(tokens, pass);
        }
        self.kept(tokens, pass).unwrap_or_else(|| {
            tch::no_grad(|| {
                let embedded = self.model.embed(tokens, pass);
                (0..self.from).fold(embedded, |stream, idx| self.model.block(idx, &stream, pass))
            })
        })
    }

    fn block(&self, idx: usize, hidden: &Tensor, pass: &Pass) -> Tensor {
        self.model.block(idx + self.from, hidden, pass)
    }

    fn norm(&self, hidden: &Tensor, pass: &Pass) -> Tensor {
        self.model.norm(hidden, pass)
    }

    fn head(&self) -> &Linear {
        self.model.head()
    }
}

impl Parameters for Tail<'_> {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.model.visit(at, visitor);
    }
}
