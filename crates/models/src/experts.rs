//! Between the decoder's slots and experts: how a mixture is made of a checkpoint, and how its load is evened out.

use anyhow::Result;
use checkpoint::{ExpertNames, ExpertsConfig};
use decoder::{Decoder, ExpertSlots};
use moe::{BIAS, Balance, Expert, Experts, Gating, Names, Router, RouterConfig, Shared, max_violation, update_bias};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Param, Parameters, Role, Sublayer, Tally};
use train::{AfterStep, Tallies};

/// `[router]`: how experts are chosen while training, and what evens out their load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouterOptions {
    /// Coefficient of the balance loss, shared by all layers; the model's own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_aux_loss_coef: Option<f64>,
    /// Coefficient of the squared log-sum of the router's logits, shared by all layers.
    pub router_z_loss_coef: f64,
    /// Noise on the router's input; the model's own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_jitter_noise: Option<f64>,
    /// Which experts a token is given to, while this run lasts; what is written goes by the model's own number.
    pub gating: GatingOption,
    /// While this run lasts: experts whose weight is less than this share of the token's largest are left out; 0 for none.
    pub skip_below: f64,
    /// How far a bias for choosing moves after each step, towards even load; 0 for no bias.
    pub router_bias_update_rate: f64,
}

/// How many experts a token is given to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GatingOption {
    /// As many as the model says.
    #[default]
    Sparse,
    /// All, each with its probability.
    Dense,
}

impl RouterOptions {
    /// Refuses values that cannot be: the key, and what was wanted.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let numbers = [
            (
                "router_aux_loss_coef",
                self.router_aux_loss_coef.unwrap_or(0.0),
                f64::INFINITY,
            ),
            ("router_z_loss_coef", self.router_z_loss_coef, f64::INFINITY),
            ("router_jitter_noise", self.router_jitter_noise.unwrap_or(0.0), 1.0),
            ("router_bias_update_rate", self.router_bias_update_rate, 1.0),
            ("skip_below", self.skip_below, 1.0),
        ];
        if self.gating == GatingOption::Dense && self.skip_below > 0.0 {
            let wanted = "wanted 0 with `gating = \"dense\"`, which leaves no expert out";
            return Err(("skip_below", format!("{wanted}, found {}", self.skip_below)));
        }
        for (key, value, most) in numbers {
            if !(value.is_finite() && (0.0..=most).contains(&value)) {
                let wanted = if most == 1.0 {
                    "a number from 0 to 1"
                } else {
                    "a number of 0 or more"
                };
                return Err((key, format!("wanted {wanted}, found {value}")));
            }
        }
        Ok(())
    }

    /// Whether experts are chosen otherwise than the model says.
    pub fn chooses(&self) -> bool {
        self.gating != GatingOption::Sparse || self.skip_below > 0.0
    }

    /// What each of the layers adds to the loss.
    pub fn balance(&self, config: &ExpertsConfig) -> Balance {
        let layers = config.layers.iter().filter(|is_sparse| **is_sparse).count().max(1) as f64;
        Balance {
            aux: self.router_aux_loss_coef.unwrap_or(config.router_aux_loss_coef) / layers,
            z: self.router_z_loss_coef / layers,
        }
    }

    /// The mixture of a checkpoint's slots.
    pub fn experts(&self, slots: ExpertSlots) -> tensor_core::Result<Box<dyn Sublayer>> {
        let at = slots.at.clone();
        let refused = |error: moe::Error| tensor_core::Error::Surgery {
            at,
            source: Box::new(error),
        };
        self.layer(slots)
            .map(|layer| Box::new(layer) as Box<dyn Sublayer>)
            .map_err(refused)
    }

    /// A layer's experts, routed and balanced as these options say.
    pub fn layer(&self, slots: ExpertSlots) -> moe::Result<Experts> {
        let config = slots.config;
        let balance = self.balance(&config);
        let names = match config.names {
            ExpertNames::Mixtral => Names::Mixtral,
            ExpertNames::Qwen => Names::Qwen,
        };
        let router = RouterConfig {
            gating: match self.gating {
                GatingOption::Sparse => Gating::TopK(config.num_experts_per_tok as usize),
                GatingOption::Dense => Gating::Dense,
            },
            normalise: config.norm_topk_prob,
            jitter: self.router_jitter_noise.unwrap_or(config.router_jitter_noise),
            skip_below: self.skip_below,
        };
        let device = slots.router.value().device();
        let router = Router::new(slots.router, router)?;
        let router = match slots.bias.or_else(|| self.new_bias(config.num_experts, device)) {
            Some(bias) => router.with_bias(bias),
            None => router,
        };
        let expert = |matrices| Expert::new(matrices, names, slots.activation);
        let experts = slots.experts.into_iter().map(expert).collect();
        let layer = Experts::new(slots.at, router, experts)?.with_balance(balance);
        Ok(match slots.shared {
            None => layer,
            Some((matrices, gate)) => layer.with_shared(Shared {
                expert: expert(matrices),
                gate,
            }),
        })
    }

    /// A bias of zeros, where one shall be moved.
    pub fn new_bias(&self, num_experts: i64, device: tch::Device) -> Option<Param> {
        let zeros = || Tensor::zeros([num_experts], (Kind::Float, device));
        (self.router_bias_update_rate > 0.0).then(|| Param::frozen(zeros(), Role::Balance))
    }
}

/// Hears each step's load, and moves biases by it.
#[derive(Debug)]
pub struct Balancing {
    rate: f64,
    biases: Vec<(ModulePath, Param)>,
}

impl Balancing {
    /// Of a model with experts.
    pub fn of(model: &Decoder, options: &RouterOptions) -> Option<Self> {
        model.config().experts.as_ref()?;
        let mut biases = Vec::new();
        model.visit(&ModulePath::root(), &mut |at, param| {
            if param.role() == Role::Balance {
                biases.push((at.clone(), param.share()));
            }
        });
        Some(Self {
            rate: options.router_bias_update_rate,
            biases,
        })
    }
}

impl AfterStep for Balancing {
    fn after_step(&self, tallies: &Tallies) -> Vec<(String, f64)> {
        let mut numbers = Vec::new();
        let mut violations = 0.0;
        for (at, counts) in tallies {
            let bias = at.join("gate").join(BIAS);
            if let Some((_, bias)) = self.biases.iter().find(|(at, _)| self.rate > 0.0 && *at == bias) {
                update_bias(bias.value(), counts, self.rate);
            }
            violations += max_violation(counts);
            numbers.extend(shares((at.clone(), counts.clone())));
        }
        if !tallies.is_empty() {
            numbers.push(("max_violation".to_owned(), violations / tallies.len() as f64));
        }
        numbers
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let moved = self.biases.iter().filter(|_| self.rate > 0.0);
        moved
            .map(|(at, bias)| (at.to_string(), bias.value().shallow_clone()))
            .collect()
    }
}

/// Each expert's part of a layer's load under its name in the metrics: `expert_load/LAYER/EXPERT`.
fn shares((at, counts): Tally) -> impl Iterator<Item = (String, f64)> {
    let sum: f64 = counts.iter().sum();
    let layer = at.layer_idx().unwrap_or(0);
    let numbered = counts.into_iter().enumerate();
    numbered.map(move |(expert, count)| (format!("expert_load/{layer}/{expert}"), count / sum.max(1.0)))
}
