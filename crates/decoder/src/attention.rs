//! Causal self-attention over documents, with grouped heads, rotary positions and, where the family has them, a window
//! and normalised queries and keys.
//!
//! Shapes: t tokens, d model width, h heads, k key-value heads, c head width.

use std::sync::Arc;

use kernels::RopeTable;
use tch::Tensor;
use tensor_core::{Linear, ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Result, Sublayer, project};

use crate::norm::RmsNorm;

/// The four projections of an attention layer.
#[derive(Debug)]
pub struct AttentionProjections {
    /// `[h c, d]`
    pub q_proj: Linear,
    /// `[k c, d]`
    pub k_proj: Linear,
    /// `[k c, d]`
    pub v_proj: Linear,
    /// `[d, h c]`
    pub o_proj: Linear,
}

/// What an attention layer is besides its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Which of the cache's layers is this one's.
    pub layer_idx: usize,
    /// h
    pub num_heads: usize,
    /// k, a divisor of h.
    pub num_kv_heads: usize,
    /// c
    pub head_dim: usize,
    /// What the products of queries and keys are multiplied by.
    pub scale: f64,
    /// How many positions back a query sees, itself included; none for all.
    pub window: Option<usize>,
}

/// Causal self-attention: the first sublayer of a block.
#[derive(Debug)]
pub struct Attention {
    projections: AttentionProjections,
    query_key_norms: Option<(RmsNorm, RmsNorm)>,
    rope: Arc<RopeTable>,
    shape: AttentionShape,
}

impl Attention {
    /// From its parts; `query_key_norms` have gains `[c]`.
    pub fn new(
        projections: AttentionProjections,
        query_key_norms: Option<(RmsNorm, RmsNorm)>,
        rope: Arc<RopeTable>,
        shape: AttentionShape,
    ) -> Self {
        Self {
            projections,
            query_key_norms,
            rope,
            shape,
        }
    }

    /// What the layer is besides its weights.
    pub fn shape(&self) -> AttentionShape {
        self.shape
    }
}

impl Sublayer for Attention {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let AttentionShape {
            layer_idx,
            num_heads,
            num_kv_heads,
            head_dim,
            scale,
            window,
        } = self.shape;
        let p = &self.projections;
        let t = x.size()[0];
        let heads = |y: Tensor, count: usize| y.view([t, count as i64, head_dim as i64]);
        let [q, k, v] = project(x, [&p.q_proj, &p.k_proj, &p.v_proj], pass);
        let (mut q, mut k, v) = (heads(q, num_heads), heads(k, num_kv_heads), heads(v, num_kv_heads));
        if let Some((q_norm, k_norm)) = &self.query_key_norms {
            (q, k) = (q_norm.forward(&q, pass), k_norm.forward(&k, pass));
        }
        let rotation = self.rope.rotation(pass.documents());
        let (q, k) = (kernels::rope(&q, &rotation), kernels::rope(&k, &rotation));
        let y = match pass.past() {
            Some(past) => past.attend(layer_idx, &q, &k, &v, pass.documents(), scale, window),
            None => kernels::attention(&q, &k, &v, pass.documents(), scale, window),
        };
        p.o_proj.forward(&y.view([t, (num_heads * head_dim) as i64]), pass)
    }

    fn map_projections(self: Box<Self>, at: &ModulePath, surgeon: &mut ProjectionSurgeon) -> Result<Box<dyn Sublayer>> {
        let p = self.projections;
        let projections = AttentionProjections {
            q_proj: p.q_proj.map(&at.join("q_proj"), surgeon)?,
            k_proj: p.k_proj.map(&at.join("k_proj"), surgeon)?,
            v_proj: p.v_proj.map(&at.join("v_proj"), surgeon)?,
            o_proj: p.o_proj.map(&at.join("o_proj"), surgeon)?,
        };
        Ok(Box::new(Self { projections, ..*self }))
    }
}

impl Parameters for Attention {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        let p = &self.projections;
        p.q_proj.visit(&at.join("q_proj"), visitor);
        p.k_proj.visit(&at.join("k_proj"), visitor);
        p.v_proj.visit(&at.join("v_proj"), visitor);
        p.o_proj.visit(&at.join("o_proj"), visitor);
        if let Some((q_norm, k_norm)) = &self.query_key_norms {
            q_norm.visit(&at.join("q_norm"), visitor);
            k_norm.visit(&at.join("k_norm"), visitor);
        }
    }
}
