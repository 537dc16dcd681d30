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

#[cfg(test)]
mod tests {
    use checkpoint::ModelDir;
    use memory_tuning::{MemoryConfig, Wrapping};
    use methods::facts::Fact;
    use methods::recipe::MemoryObjective;
    use tch::{Device, Kind};
    use tensor_core::{Checkpointing, CheckpointingPolicy, Documents, ModelPass};

    use super::super::prepare::prepare;
    use super::*;

    fn fact(tokens: &[u32]) -> Fact {
        Fact {
            tokens: tokens.to_vec(),
            positions: vec![tokens.len() - 2],
        }
    }

    #[test]
    fn a_tail_over_kept_streams_is_the_whole_model() {
        let dir = ModelDir::open(&golden::vectors_dir().join("families/llama-untied")).unwrap();
        let model = Decoder::load(&dir, Device::Cpu, Kind::Float).unwrap();
        let config = MemoryConfig {
            num_experts: 400,
            top_k: 4,
            query_dim: 4,
            layers_to_transform: Some(vec![1]),
            ..MemoryConfig::default()
        };
        let wrapping = Wrapping::choose(config, &model.projection_paths()).unwrap();
        let model = model
            .map_projections(&mut |at, base| wrapping.projection(at, base))
            .unwrap();
        let bank = wrapping.bank();
        let facts = [fact(&[5, 40, 33, 21]), fact(&[9, 2, 70]), fact(&[64, 12, 3, 7, 8])];
        let prepared = prepare(
            &model,
            &bank,
            &facts,
            &[vec![1, 2, 3]],
            (&MemoryObjective::default(), true),
        )
        .unwrap();
        assert_eq!((prepared.from, prepared.streams.len()), (1, 3));
        // Each fact has the four experts of its one answer, and now they say something.
        for (fact, experts) in prepared.experts.iter().enumerate() {
            assert_eq!(experts[0].len(), 4, "{fact}");
        }
        bank.each(|_, _, experts| {
            experts
                .let_move(prepared.experts.iter().flat_map(|of| of[0].clone()))
                .unwrap();
            for slot in 0..experts.table.ids().len() {
                experts.table.row_mut(slot).fill(0.1);
            }
        });
        let tail = Tail::new(&model, &prepared);
        let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, 8);
        let hidden = |model: &dyn LanguageModel, tokens: &[i64], lengths: &[usize]| {
            ModelPass::evaluate(model, &plan).hidden(&Tensor::from_slice(tokens), &Documents::new(lengths))
        };
        // Facts whose streams were kept, in another order; and a document that is none of them.
        for (tokens, lengths) in [
            (vec![9, 2, 70, 5, 40, 33, 21], vec![3, 4]),
            (vec![5, 6, 7, 9, 2, 70], vec![3, 3]),
        ] {
            let (whole, part) = (hidden(&model, &tokens, &lengths), hidden(&tail, &tokens, &lengths));
            golden::assert_close("tail", &part, &whole, 1e-5, 1e-5);
        }
        assert_eq!(tail.num_blocks() + 1, model.num_blocks());
    }
}
