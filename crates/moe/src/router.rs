//! The router: which experts a token goes to, and with what weight.
//!
//! `z = x W_gᵀ`, `p = softmax(z)` in f32; the best k of p (or of `p + b`, see [`Router::bias`]) are chosen, and weigh
//! their p, divided by the chosen ones' sum where weights are normalised, which equals a softmax over the best k of z.
//! Shapes: t tokens, d model width, e experts, k chosen experts.
//!
//! Sources: Jiang et al. 2024, arXiv:2401.04088, section 2.1; Wang et al. 2024, arXiv:2408.15664 (the bias); Fedus et
//! al. 2021, arXiv:2101.03961 (jitter); Lu et al. 2024, arXiv:2402.14800, section 4.3 (skipping). Deviation: jitter is the
//! router's alone, where Transformers lets the experts read the jittered tokens too.

use tch::{Kind, Tensor};
use tensor_core::{DropoutKey, ModulePath, Param, Parameters, Pass};

use crate::dispatch::counts;
use crate::{Error, Result};

/// Which experts a token is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// The best k.
    TopK(usize),
    /// All of them, each with its probability.
    Dense,
}

/// What a router is besides its matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterConfig {
    /// Which experts a token is given to.
    pub gating: Gating,
    /// Whether the chosen experts' weights sum to 1: `norm_topk_prob`.
    pub normalise: bool,
    /// While training, what the router reads is multiplied by a uniform number in `1 ± jitter`.
    pub jitter: f64,
    /// The least share of the largest weight that the other experts of a token must have; those with less are left
    /// out, and the rest keep the weights' sum. 0 leaves none out.
    pub skip_below: f64,
}

impl RouterConfig {
    /// Mixtral's: the best k, normalised.
    pub fn top(k: usize) -> Self {
        Self {
            gating: Gating::TopK(k),
            normalise: true,
            jitter: 0.0,
            skip_below: 0.0,
        }
    }
}

/// A matrix `[e, d]` that chooses.
#[derive(Debug)]
pub struct Router {
    weight: Param,
    bias: Option<Param>,
    config: RouterConfig,
}

/// What a router said of t tokens.
#[derive(Debug)]
pub struct Routing {
    /// z `[t, e]` f32.
    pub logits: Tensor,
    /// p `[t, e]` f32.
    pub probabilities: Tensor,
    /// The chosen experts `[t, k]` i64, best first; one that was skipped is e.
    pub chosen: Tensor,
    /// Their weights `[t, k]` f32; 0 where skipped.
    pub weights: Tensor,
}

impl Router {
    /// From a matrix `[e, d]` of [`tensor_core::Role::Router`].
    pub fn new(weight: Param, config: RouterConfig) -> Result<Self> {
        let num_experts = weight.value().size()[0];
        let refuse = |option, wanted: String, found: String, hint| {
            Err(Error::Option {
                option,
                wanted,
                found,
                hint,
            })
        };
        match config.gating {
            Gating::TopK(k) if k == 0 || k as i64 > num_experts => {
                return refuse(
                    "num_experts_per_tok",
                    format!("1 to {num_experts}, the number of experts"),
                    k.to_string(),
                    "a token cannot go to more experts than there are",
                );
            }
            _ => {}
        }
        for (option, value) in [
            ("router_jitter_noise", config.jitter),
            ("skip_below", config.skip_below),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return refuse(
                    option,
                    "a number from 0 to 1".into(),
                    value.to_string(),
                    "0 turns it off",
                );
            }
        }
        Ok(Self {
            weight,
            bias: None,
            config,
        })
    }

    /// With a bias `[e]` f32 that is added to the probabilities for choosing, and never to the weights.
    #[must_use]
    pub fn with_bias(self, bias: Param) -> Self {
        Self {
            bias: Some(bias),
            ..self
        }
    }

    /// The matrix `[e, d]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// What is added to the probabilities for choosing, `[e]`.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }

    /// What it is besides its matrix.
    pub fn config(&self) -> RouterConfig {
        self.config
    }

    /// The same router over these of its experts, in this order.
    ///
    /// Errors: one that there is not, or fewer than a token is given.
    pub fn keeping(&self, kept: &[usize]) -> Result<Self> {
        if let Some(gone) = kept.iter().find(|&&expert| expert >= self.num_experts()) {
            return Err(Error::Option {
                option: "experts",
                wanted: format!("numbers below {}", self.num_experts()),
                found: gone.to_string(),
                hint: "experts are counted from 0",
            });
        }
        let rows = crate::calibration::indices(kept).to_device(self.weight.value().device());
        let of = |param: &Param| Param::frozen(param.value().detach().index_select(0, &rows), param.role());
        let router = Self::new(of(&self.weight), self.config)?;
        Ok(match &self.bias {
            Some(bias) => router.with_bias(of(bias)),
            None => router,
        })
    }

    /// e.
    pub fn num_experts(&self) -> usize {
        self.weight.value().size()[0] as usize
    }

    /// Where the tokens `x` (`[t, d]`) go; `site` names the random stream of the jitter.
    pub fn route(&self, x: &Tensor, pass: &Pass, site: u64) -> Routing {
        let read = x.to_kind(Kind::Float);
        let read = match pass.dropout(site).filter(|_| self.config.jitter > 0.0) {
            Some(key) => read * jitter(&x.size(), self.config.jitter, key).to_device(x.device()),
            None => read,
        };
        self.choose(&read.matmul(&self.weight.cast(Kind::Float).tr()))
    }

    /// What follows from logits `[t, e]` f32.
    pub fn choose(&self, logits: &Tensor) -> Routing {
        let probabilities = logits.softmax(-1, Kind::Float);
        let (chosen, mut weights) = match self.config.gating {
            Gating::Dense => {
                let t = logits.size()[0];
                let all = Tensor::arange(self.num_experts() as i64, (Kind::Int64, logits.device()));
                (all.expand([t, -1], true), probabilities.shallow_clone())
            }
            Gating::TopK(k) => {
                let scores = match &self.bias {
                    Some(bias) => probabilities.detach() + bias.value(),
                    None => probabilities.detach(),
                };
                let chosen = scores.topk(k as i64, -1, true, true).1;
                let weights = probabilities.gather(-1, &chosen, false);
                (chosen, weights)
            }
        };
        if self.config.normalise {
            weights = &weights / weights.sum_dim_intlist(-1, true, Kind::Float);
        }
        let routing = Routing {
            logits: logits.shallow_clone(),
            probabilities,
            chosen,
            weights,
        };
        if self.config.skip_below > 0.0 {
            routing.skipping(self.config.skip_below, self.num_experts() as i64)
        } else {
            routing
        }
    }
}

impl Routing {
    /// How many of the tokens each of `num_experts` was given, `[e]` f32.
    pub fn counts(&self, num_experts: usize) -> Tensor {
        counts(&self.chosen, num_experts)
    }

    /// Without the experts whose weight is below `share` of the largest; the rest keep their sum.
    fn skipping(self, share: f64, num_experts: i64) -> Self {
        let is_kept = self.weights.ge_tensor(&(self.weights.amax([-1], true) * share));
        let sum = self.weights.sum_dim_intlist(-1, true, Kind::Float);
        let kept = &self.weights * is_kept.to_kind(Kind::Float);
        let weights = &kept * (sum / kept.sum_dim_intlist(-1, true, Kind::Float));
        let chosen = self.chosen.where_self(&is_kept, &Tensor::from(num_experts));
        Self {
            chosen,
            weights,
            ..self
        }
    }
}

impl Parameters for Router {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        visitor(&at.join("weight"), &self.weight);
        if let Some(bias) = &self.bias {
            visitor(&at.join(BIAS), bias);
        }
    }
}

/// What `DeepSeek` V3 calls the bias.
pub const BIAS: &str = "e_score_correction_bias";

/// Uniform numbers in `1 ± jitter`, a function of the key.
fn jitter(size: &[i64], jitter: f64, key: DropoutKey) -> Tensor {
    let number = |i: i64| {
        let uniform = (key.at(i as u64).0 >> 11) as f64 / (1u64 << 53) as f64;
        (1.0 + jitter * (2.0 * uniform - 1.0)) as f32
    };
    let numbers: Vec<f32> = (0..size.iter().product()).map(number).collect();
    Tensor::from_slice(&numbers).view(size)
}
