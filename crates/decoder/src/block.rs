//! A block: attention and feed-forward on the residual stream, each after a norm and, in Gemma, before one too.
//!
//! `h = x + post(attention(norm(x)))`, `y = h + post(feed_forward(norm(h)))`. Shapes: t tokens, d model width.

use tch::Tensor;
use tensor_core::{ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Result, Sublayer, SublayerSurgeon};

use crate::norm::{NormSurgeon, RmsNorm};

/// The norms of a block, each with a gain `[d]`.
#[derive(Debug)]
pub struct BlockNorms {
    /// Before attention.
    pub input: RmsNorm,
    /// Before the feed-forward.
    pub feed_forward: RmsNorm,
    /// After attention and after the feed-forward, before each is added: Gemma's.
    pub post: Option<(RmsNorm, RmsNorm)>,
}

/// One block of a decoder.
#[derive(Debug)]
pub struct Block {
    norms: BlockNorms,
    attention: Box<dyn Sublayer>,
    feed_forward: Box<dyn Sublayer>,
    /// What the checkpoint calls the feed-forward: `mlp`, or `block_sparse_moe` in Mixtral.
    feed_forward_name: &'static str,
}

impl Block {
    /// From its parts, the feed-forward being called `mlp`.
    pub fn new(norms: BlockNorms, attention: Box<dyn Sublayer>, feed_forward: Box<dyn Sublayer>) -> Self {
        Self {
            norms,
            attention,
            feed_forward,
            feed_forward_name: "mlp",
        }
    }

    /// The same block with another name for its feed-forward.
    #[must_use]
    pub fn with_feed_forward_name(self, feed_forward_name: &'static str) -> Self {
        Self {
            feed_forward_name,
            ..self
        }
    }

    /// Replaces the feed-forward by what the surgeon makes of it; `at` is the block's path.
    pub fn map_feed_forward(self, at: &ModulePath, surgeon: &mut SublayerSurgeon) -> Result<Self> {
        Ok(Self {
            feed_forward: surgeon(&at.join(self.feed_forward_name), self.feed_forward)?,
            ..self
        })
    }

    /// The stream through the block: `[t, d]` to `[t, d]`.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let norms = &self.norms;
        let mut added = self.attention.forward(&norms.input.forward(x, pass), pass);
        if let Some((post, _)) = &norms.post {
            added = post.forward(&added, pass);
        }
        let (stream, normed) = norms.feed_forward.add_forward(x, &added, pass);
        drop(added);
        let mut added = self.feed_forward.forward(&normed, pass);
        if let Some((_, post)) = &norms.post {
            added = post.forward(&added, pass);
        }
        stream + added
    }

    /// Replaces each projection by what the surgeon makes of it; `at` is the block's path.
    pub fn map_projections(self, at: &ModulePath, surgeon: &mut ProjectionSurgeon) -> Result<Self> {
        Ok(Self {
            attention: self.attention.map_projections(&at.join("self_attn"), surgeon)?,
            feed_forward: self
                .feed_forward
                .map_projections(&at.join(self.feed_forward_name), surgeon)?,
            ..self
        })
    }

    /// Replaces both sublayers by what the surgeon makes of them; `at` is the block's path.
    pub fn map_sublayers(self, at: &ModulePath, surgeon: &mut SublayerSurgeon) -> Result<Self> {
        Ok(Self {
            attention: surgeon(&at.join("self_attn"), self.attention)?,
            feed_forward: surgeon(&at.join(self.feed_forward_name), self.feed_forward)?,
            ..self
        })
    }

    /// Replaces each norm of the stream by what the surgeon makes of it; `at` is the block's path.
    pub fn map_norms(self, at: &ModulePath, surgeon: &mut NormSurgeon) -> Result<Self> {
        let BlockNorms {
            input,
            feed_forward,
            post,
        } = self.norms;
        let mut map = |name: &str, norm| surgeon(&at.join(name), norm);
        let input = map("input_layernorm", input)?;
        let norms = match post {
            None => BlockNorms {
                input,
                feed_forward: map("post_attention_layernorm", feed_forward)?,
                post: None,
            },
            Some((attention, after)) => BlockNorms {
                input,
                feed_forward: map("pre_feedforward_layernorm", feed_forward)?,
                post: Some((
                    map("post_attention_layernorm", attention)?,
                    map("post_feedforward_layernorm", after)?,
                )),
            },
        };
        Ok(Self { norms, ..self })
    }
}

impl Parameters for Block {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.attention.visit(&at.join("self_attn"), visitor);
        self.feed_forward.visit(&at.join(self.feed_forward_name), visitor);
        let norms = &self.norms;
        norms.input.visit(&at.join("input_layernorm"), visitor);
        match &norms.post {
            None => norms.feed_forward.visit(&at.join("post_attention_layernorm"), visitor),
            Some((attention, feed_forward)) => {
                attention.visit(&at.join("post_attention_layernorm"), visitor);
                norms.feed_forward.visit(&at.join("pre_feedforward_layernorm"), visitor);
                feed_forward.visit(&at.join("post_feedforward_layernorm"), visitor);
            }
        }
    }
}
