//! Which experts answer a token: cross-attention over product keys.
//!
//! `q = W_q (x - μ)`, `s_e = q · K_e / √d`, the k best experts S, `a = softmax(s_S / τ)`. `W_q`, μ and the keys are fitted
//! once ([`Selection::fit`]) and then stay, so that a fact always meets the same experts. A low temperature τ gives the
//! last of the k little to say, so that rounding, which may put another in its place, changes little.
//!
//! Source: the cross-attention of Li et al. 2024, arXiv:2406.17642, figure 4 and section 7.1, which print no equation;
//! product keys as in arXiv:1907.05242. Deviation: each token chooses, by its own input, where the paper speaks of a
//! question; so a text needs no mark where its question ends, and the choice is causal.
//! Shapes: t tokens, d query width, k chosen experts.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};
use tch::{Kind, Tensor};

use crate::{MemoryConfig, ProductKeys};

/// What chooses between the experts of one table.
#[derive(Debug)]
pub struct Selection {
    /// `W_q`, `[d, in]` f32.
    pub query: Tensor,
    /// `W_q μ` `[d]` f32.
    pub offset: Tensor,
    /// K.
    pub keys: ProductKeys,
    top_k: usize,
    temperature: f64,
}

/// The experts of each token.
#[derive(Debug)]
pub struct Chosen {
    /// `[t, k]` i64, best first.
    pub experts: Tensor,
    /// a, `[t, k]` f32: each row sums to 1.
    pub shares: Tensor,
}

impl Selection {
    /// A random one for inputs of width `inputs`; `site` tells tables of one model apart.
    pub fn random(config: &MemoryConfig, inputs: usize, site: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(config.seed ^ site);
        let bound = (3.0 / inputs as f32).sqrt();
        let values: Vec<f32> = (0..config.query_dim * inputs)
            .map(|_| rng.random_range(-bound..bound))
            .collect();
        Self {
            query: Tensor::from_slice(&values).view([config.query_dim as i64, inputs as i64]),
            offset: Tensor::zeros([config.query_dim as i64], (Kind::Float, tch::Device::Cpu)),
            keys: ProductKeys::random(config.num_keys(), config.query_dim, config.seed ^ site ^ 1),
            top_k: config.top_k,
            temperature: config.temperature,
        }
    }

    /// From its tensors; k and τ are the configuration's.
    pub fn new(query: Tensor, offset: Tensor, keys: ProductKeys, config: &MemoryConfig) -> Self {
        Self {
            query,
            offset,
            keys,
            top_k: config.top_k,
            temperature: config.temperature,
        }
    }

    /// k.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// `[t, in]` f32 to `[t, d]`.
    pub fn queries(&self, x: &Tensor) -> Tensor {
        x.matmul(&self.query.tr()) - &self.offset
    }

    /// The experts of each row of `x` (`[t, in]` f32); the shares are differentiable.
    pub fn choose(&self, x: &Tensor) -> Chosen {
        let (experts, scores) = self.keys.best(&self.queries(x), self.top_k);
        let width = self.query.size()[0] as f64;
        Chosen {
            experts,
            shares: (scores / (width.sqrt() * self.temperature)).softmax(-1, Kind::Float),
        }
    }
}
