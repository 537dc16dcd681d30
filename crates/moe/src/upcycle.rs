//! Sparse upcycling: a dense feed-forward as every expert of a mixture, with a router that is new.
//!
//! With weights that sum to 1, equal experts are the dense layer whatever the router says, so the model at step 0 is its
//! parent. Equal experts stay equal where they see the same gradients; two things set them apart: noise on each
//! matrix, and drawing a share of each expert's inner neurons anew. Both give up equality at step 0.
//!
//! Shapes: d model width, f inner width, e experts.
//!
//! Sources: Komatsuzaki et al. 2022, arXiv:2212.05055; Nakamura et al. 2025, arXiv:2502.19261 (drawing neurons anew).
//! Deviations: every layer is upcycled, as Mixtral wants it; noise is given as a share of the matrix's own deviation.

use kernels::Activation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use tensor_core::{Dense, DropoutKey, Linear, ModulePath, Param, Role, Sublayer};

use crate::{Balance, Error, Expert, Experts, Names, Result, Router, RouterConfig};

/// How a dense feed-forward becomes experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpcycleConfig {
    /// How many experts each layer gets.
    #[serde(alias = "num_experts")]
    #[schemars(extend("x-aliases" = ["num_experts"]))]
    pub num_local_experts: usize,
    /// How many experts each token is given to.
    #[serde(alias = "experts_per_token")]
    #[schemars(extend("x-aliases" = ["experts_per_token"]))]
    pub num_experts_per_tok: usize,
    /// Standard deviation of the noise on each expert's matrices, as a share of the matrix's own.
    pub noise_scale: f64,
    /// The share of each expert's inner neurons that are drawn anew, with the mean and standard deviation of those
    /// they replace.
    pub reinitialise: f64,
    /// Standard deviation of the new router's weights.
    pub router_scale: f64,
    /// The seed of all these random numbers.
    pub seed: u64,
}

impl Default for UpcycleConfig {
    fn default() -> Self {
        Self {
            num_local_experts: 8,
            num_experts_per_tok: 2,
            noise_scale: 0.0,
            reinitialise: 0.0,
            router_scale: 0.02,
            seed: 42,
        }
    }
}

/// A matrix of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `[f, d]`
    Gate,
    /// `[f, d]`
    Up,
    /// `[d, f]`
    Down,
}

impl Part {
    /// In the order of an expert's slots.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];

    /// What dense feed-forwards call it.
    pub fn dense_name(self) -> &'static str {
        match self {
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The dimension that counts inner neurons.
    fn inner(self) -> i64 {
        match self {
            Self::Gate | Self::Up => 0,
            Self::Down => 1,
        }
    }
}

impl UpcycleConfig {
    /// An error unless every value can be.
    pub fn check(&self) -> Result<()> {
        let refuse = |option, wanted: String, found: String| {
            let hint = "8 experts, of which a token has 2, are Mixtral's";
            Err(Error::Option {
                option,
                wanted,
                found,
                hint,
            })
        };
        let (e, k) = (self.num_local_experts, self.num_experts_per_tok);
        if e == 0 {
            return refuse("num_local_experts", "1 or more".into(), e.to_string());
        }
        if k == 0 || k > e {
            return refuse("num_experts_per_tok", format!("1 to {e}"), k.to_string());
        }
        if !(0.0..=1.0).contains(&self.reinitialise) {
            return refuse(
                "reinitialise",
                "a share from 0 to 1".into(),
                self.reinitialise.to_string(),
            );
        }
        for (option, value) in [("noise_scale", self.noise_scale), ("router_scale", self.router_scale)] {
            if !(value >= 0.0 && value.is_finite()) {
                return refuse(option, "0 or more".into(), value.to_string());
            }
        }
        Ok(())
    }

    /// Whether the mixture is its parent at step 0.
    pub fn is_exact(&self) -> bool {
        self.noise_scale == 0.0 && self.reinitialise == 0.0
    }

    /// The router `[e, d]` f32 of the mixture at `at`.
    pub fn router(&self, at: &ModulePath, width: i64) -> Tensor {
        let size = [self.num_local_experts as i64, width];
        normal(size, self.key(&at.join("gate"))) * self.router_scale
    }

    /// The matrix that the expert at `at` has where its parent has `weight`: in `weight`'s dtype, on its device.
    pub fn matrix(&self, at: &ModulePath, part: Part, weight: &Tensor) -> Tensor {
        if self.is_exact() {
            return weight.shallow_clone();
        }
        let key = self.key(&at.join(part.dense_name()));
        let mut value = weight.to_device(Device::Cpu).to_kind(Kind::Float).copy();
        let size = value.size2().expect("a matrix has two dimensions");
        let size = [size.0, size.1];
        if self.noise_scale > 0.0 {
            let deviation = value.std(false).double_value(&[]);
            value += normal(size, key) * (deviation * self.noise_scale);
        }
        let neurons = self.neurons(at, size[part.inner() as usize]);
        if neurons.numel() > 0 {
            let old = value.index_select(part.inner(), &neurons);
            let mut new_size = size;
            new_size[part.inner() as usize] = neurons.numel() as i64;
            let drawn = normal(new_size, key.at(1)) * old.std(false) + old.mean(Kind::Float);
            value = value.index_copy(part.inner(), &neurons, &drawn);
        }
        value.to_kind(weight.kind()).to_device(weight.device())
    }

    /// Which of an expert's `f` neurons are drawn anew, the same in all of its matrices.
    fn neurons(&self, at: &ModulePath, f: i64) -> Tensor {
        let count = (self.reinitialise * f as f64).round() as usize;
        let key = self.key(at);
        let mut order: Vec<i64> = (0..f).collect();
        order.sort_by_key(|&neuron| key.at(neuron as u64).0);
        Tensor::from_slice(&order[..count])
    }

    fn key(&self, at: &ModulePath) -> DropoutKey {
        DropoutKey(self.seed).at(at.site())
    }

    /// The mixture at `at` of the gated feed-forward `dense` that stands at `from`; nothing of it trains.
    ///
    /// Errors: a sublayer that is not three plain matrices.
    pub fn mixture(
        &self,
        (from, at): (&ModulePath, &ModulePath),
        dense: Box<dyn Sublayer>,
        activation: Activation,
        balance: Balance,
    ) -> Result<Experts> {
        self.check()?;
        let parts = matrices(from, dense)?;
        let (_, width) = parts[0].size2().expect("a matrix has two dimensions");
        let frozen = |value: Tensor| Linear::new(Dense::new(Param::frozen(value, Role::Base)), None);
        let experts = (0..self.num_local_experts).map(|idx| {
            let at = at.join("experts").join(idx);
            let slots = [0, 1, 2].map(|i| frozen(self.matrix(&at, Part::ALL[i], &parts[i])));
            Expert::new(slots, Names::Mixtral, activation)
        });
        let router = self
            .router(at, width)
            .to_kind(parts[0].kind())
            .to_device(parts[0].device());
        let router = Router::new(
            Param::frozen(router, Role::Router),
            RouterConfig::top(self.num_experts_per_tok),
        )?;
        Ok(Experts::new(at.clone(), router, experts.collect())?.with_balance(balance))
    }
}

/// Gate, up and down of a gated feed-forward.
fn matrices(at: &ModulePath, dense: Box<dyn Sublayer>) -> Result<[Tensor; 3]> {
    let not_gated = |found: String, hint| Error::NotGated { found, hint };
    let mut held = 0;
    dense.visit(at, &mut |_, _| held += 1);
    let mut found: Vec<(String, Tensor)> = Vec::new();
    let mapped = dense.map_projections(at, &mut |at, projection| {
        let dense = Linear::holding(projection, None).into_dense(at)?.0;
        found.push((at.name().to_owned(), dense.param().value().shallow_clone()));
        Ok(Box::new(dense))
    });
    mapped.map_err(|error| not_gated(error.to_string(), "upcycle before any other surgery"))?;
    if held != 3 {
        let hint = "upcycle a model without biases, before any other surgery";
        return Err(not_gated(format!("{held} parameters"), hint));
    }
    let value = |part: Part| {
        let named = found.iter().find(|(name, _)| name == part.dense_name());
        named
            .map(|(_, value)| value.shallow_clone())
            .ok_or_else(|| not_gated(format!("no `{}`", part.dense_name()), "this model has experts already"))
    };
    Ok([value(Part::Gate)?, value(Part::Up)?, value(Part::Down)?])
}

/// Normal numbers, a function of the key.
fn normal([rows, columns]: [i64; 2], key: DropoutKey) -> Tensor {
    let uniform = |place: u64| (key.at(place).0 >> 11) as f64 / (1u64 << 53) as f64;
    // Box and Muller's polar angle and radius; one of the pair is enough here.
    let number = |i: i64| {
        let (a, b) = (uniform(2 * i as u64), uniform(2 * i as u64 + 1));
        ((-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    };
    let numbers: Vec<f32> = (0..rows * columns).map(number).collect();
    Tensor::from_slice(&numbers).view([rows, columns])
}
