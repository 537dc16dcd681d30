//! The decoder: an embedding, blocks, a last norm and a head, as an owned tree of slots.
//!
//! Shapes: t tokens, d model width, v vocabulary.

use tch::{Device, Kind, Tensor};
use tensor_core::{
    Documents, Embedding, EmbeddingSurgeon, LanguageModel, Linear, ModulePath, Param, Parameters, Pass,
    ProjectionSurgeon, SublayerSurgeon, device,
};

use crate::block::Block;
use crate::head::HeadKind;
use crate::norm::{NormSurgeon, RmsNorm};
use crate::{Error, Result};

/// A decoder-only language model.
///
/// Surgery consumes: after an error the model is gone, never half-changed.
#[derive(Debug)]
pub struct Decoder {
    pub(crate) config: checkpoint::ModelConfig,
    pub(crate) kind: Kind,
    pub(crate) device: Device,
    pub(crate) embedding: Box<dyn Embedding>,
    /// What embedded tokens are multiplied by; Gemma's √d.
    pub(crate) embedding_scale: Option<f64>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: RmsNorm,
    pub(crate) head: Linear,
    pub(crate) head_kind: HeadKind,
}

impl Decoder {
    /// The configuration that the model came with, brought up to date by [`Self::replace_head`].
    pub fn config(&self) -> &checkpoint::ModelConfig {
        &self.config
    }

    /// The dtype of activations and of frozen weights.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the model lies.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The vocabulary's size: rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        self.config.vocab_size as usize
    }

    /// The most positions that a sequence may have: see [`checkpoint::ModelConfig::max_positions`].
    pub fn max_positions(&self) -> usize {
        self.config.max_positions() as usize
    }

    /// What the head is for.
    pub fn head_kind(&self) -> &HeadKind {
        &self.head_kind
    }

    /// The token embedding.
    pub fn embedding(&self) -> &dyn Embedding {
        &*self.embedding
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Replaces every projection of the blocks, and the head's, by what the surgeon makes of it.
    ///
    /// The output layer comes last, under [`HeadKind::path`]; a head that is tied to the embedding comes too, and
    /// what the surgeon does to it leaves the embedding as it is.
    pub fn map_projections(self, surgeon: &mut ProjectionSurgeon) -> Result<Self> {
        let blocks = each_block(self.blocks, |at, block| block.map_projections(at, surgeon))?;
        let head = self.head.map(&self.head_kind.path(), surgeon)?;
        Ok(Self { blocks, head, ..self })
    }

    /// Replaces every sublayer by what the surgeon makes of it: `….self_attn` and `….mlp` of each block (where its
    /// feed-forward is called so).
    pub fn map_sublayers(self, surgeon: &mut SublayerSurgeon) -> Result<Self> {
        let blocks = each_block(self.blocks, |at, block| block.map_sublayers(at, surgeon))?;
        Ok(Self { blocks, ..self })
    }

    /// Replaces every feed-forward by what the surgeon makes of it, such as experts: `config` is the new model's.
    ///
    /// Errors: a configuration that differs in more than its feed-forwards.
    pub fn replace_feed_forwards(self, config: checkpoint::ModelConfig, surgeon: &mut SublayerSurgeon) -> Result<Self> {
        let shape = |config: &checkpoint::ModelConfig| {
            [
                ("hidden_size", config.hidden_size),
                ("num_hidden_layers", config.num_hidden_layers as i64),
                ("num_attention_heads", config.num_attention_heads),
                ("num_key_value_heads", config.num_key_value_heads),
                ("head_dim", config.head_dim),
                ("vocab_size", config.vocab_size),
            ]
        };
        for ((option, wanted), (_, found)) in shape(&config).into_iter().zip(shape(&self.config)) {
            if wanted != found {
                let (wanted, found) = (wanted.to_string(), found.to_string());
                return Err(Error::OtherBlocks { option, wanted, found });
            }
        }
        let blocks = each_block(self.blocks, |at, block| block.map_feed_forward(at, surgeon))?;
        let named = blocks.into_iter().enumerate();
        let blocks = named.map(|(idx, block)| block.with_feed_forward_name(config.feed_forward_name(idx)));
        Ok(Self {
            blocks: blocks.collect(),
            config,
            ..self
        })
    }

    /// Replaces the token embedding by what the surgeon makes of it; a head that was tied to it keeps the old table.
    pub fn map_embedding(self, surgeon: &mut EmbeddingSurgeon) -> Result<Self> {
        let embedding = surgeon(&embedding_path(), self.embedding)?;
        Ok(Self { embedding, ..self })
    }

    /// Replaces every norm of the stream by what the surgeon makes of it: two or four in each block, and the last one.
    pub fn map_norms(self, surgeon: &mut NormSurgeon) -> Result<Self> {
        let blocks = each_block(self.blocks, |at, block| block.map_norms(at, surgeon))?;
        let norm = surgeon(&norm_path(), self.norm)?;
        Ok(Self { blocks, norm, ..self })
    }

    /// The path of every projection, in the order of [`Self::map_projections`], and whether it is the output layer.
    pub fn projection_paths(&self) -> Vec<(ModulePath, bool)> {
        crate::load::projection_paths(&self.config)
    }

    /// The same function with every projection and the embedding as one plain matrix each, and every norm as one gain.
    pub fn merge(self) -> Result<Self> {
        let merged = self.map_projections(&mut |_, projection| Ok(Box::new(projection.merge())))?;
        let mut merged = merged.map_norms(&mut |_, norm| Ok(norm.merge()))?;
        merged.embedding = Box::new(merged.embedding.merge());
        Ok(merged)
    }

    /// The normed stream `[t, d]` of a row of tokens (`[t]` i64), without a graph.
    pub fn hidden(&self, tokens: &Tensor, pass: &Pass) -> Tensor {
        tch::no_grad(|| {
            let mut stream = self.embed(tokens, pass);
            for block in &self.blocks {
                stream = block.forward(&stream, pass);
            }
            self.norm.forward(&stream, pass)
        })
    }

    /// What the head says at every position, `[t, v]` or `[t, labels]` in f32, without a graph.
    ///
    /// For looking at: losses and log-probabilities never hold this tensor.
    pub fn logits(&self, tokens: &Tensor, documents: &Documents) -> Tensor {
        let pass = Pass::evaluate(documents);
        let hidden = self.hidden(tokens, &pass);
        tch::no_grad(|| self.head.forward(&hidden, &pass).to_kind(Kind::Float))
    }

    /// What a classification or scalar head says at each document's last token: `[documents, labels]` f32.
    pub fn classify(&self, tokens: &Tensor, documents: &Documents) -> Tensor {
        let pass = Pass::evaluate(documents);
        let hidden = self.hidden(tokens, &pass);
        let last = hidden.index_select(0, &documents.last_tokens(self.device));
        let ones = documents.one_token_each();
        tch::no_grad(|| self.head.forward(&last, &Pass::evaluate(&ones)).to_kind(Kind::Float))
    }
}

impl LanguageModel for Decoder {
    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn embed(&self, tokens: &Tensor, pass: &Pass) -> Tensor {
        let rows = self.embedding.forward(tokens, self.kind, pass);
        match self.embedding_scale {
            Some(scale) => rows * scale,
            None => rows,
        }
    }

    fn block(&self, idx: usize, hidden: &Tensor, pass: &Pass) -> Tensor {
        self.blocks[idx].forward(hidden, pass)
    }

    fn norm(&self, hidden: &Tensor, pass: &Pass) -> Tensor {
        self.norm.forward(hidden, pass)
    }

    fn head(&self) -> &Linear {
        &self.head
    }
}

impl Parameters for Decoder {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        // What the head shares with the embedding is shown once, as the embedding's.
        let mut shown = Vec::new();
        self.embedding.visit(&at.join("model.embed_tokens"), &mut |at, param| {
            shown.push(param.value().data_ptr());
            visitor(at, param);
        });
        for (idx, block) in self.blocks.iter().enumerate() {
            block.visit(&at.join(block_path(idx)), visitor);
        }
        self.norm.visit(&at.join(norm_path()), visitor);
        self.head.visit(&at.join(self.head_kind.path()), &mut |at, param| {
            if !shown.contains(&param.value().data_ptr()) {
                visitor(at, param);
            }
        });
    }
}

pub(crate) fn embedding_path() -> ModulePath {
    ModulePath::from("model.embed_tokens")
}

pub(crate) fn norm_path() -> ModulePath {
    ModulePath::from("model.norm")
}

pub(crate) fn block_path(idx: usize) -> ModulePath {
    ModulePath::from("model.layers").join(idx)
}

fn each_block(
    blocks: Vec<Block>,
    mut change: impl FnMut(&ModulePath, Block) -> tensor_core::Result<Block>,
) -> tensor_core::Result<Vec<Block>> {
    let numbered = blocks.into_iter().enumerate();
    let changed = numbered.map(|(idx, block)| {
        let block = change(&block_path(idx), block);
        // Whatever is computed from whole weights, such as the start of a factor, was freed.
        device::trim_memory();
        block
    });
    changed.collect()
}
