//! What a layer did on sample tokens: what pruning, merging and skipping of experts decide by.
//!
//! Shapes: t sample tokens, d model width, e experts, k chosen experts.

use tch::{Kind, Tensor};
use tensor_core::{Documents, Pass};

use crate::{Experts, Result};

/// A layer's inputs, its routers' words and every expert's answer, on sample tokens.
///
/// Every expert is run on every token: `e t d` numbers are held.
#[derive(Debug)]
pub struct Calibration {
    /// z `[t, e]` f32.
    pub(crate) logits: Tensor,
    /// What the expert of each row of the router makes of each token, `[e, t, d]` f32.
    pub(crate) answers: Tensor,
    /// What the layer makes of them, `[t, d]` f32.
    pub(crate) wanted: Tensor,
    usage: Vec<f64>,
    ratios: Vec<f64>,
}

impl Calibration {
    /// Of a layer on the tokens `x` (`[t, d]`, as they come to its feed-forward).
    pub fn of(layer: &Experts, x: &Tensor) -> Self {
        tch::no_grad(|| {
            let documents = Documents::new(&[x.size()[0] as usize]);
            let pass = Pass::evaluate(&documents);
            let routing = layer.route(x, &pass);
            let rows = 0..layer.router().num_experts();
            let answers: Vec<Tensor> = rows
                .map(|row| layer.expert_of(row).forward(x, &pass).to_kind(Kind::Float))
                .collect();
            // What every token gets besides does not depend on the choice.
            let wanted = layer.routed(x, &routing, &pass).to_kind(Kind::Float);
            let usage: Vec<f32> =
                Vec::try_from(routing.counts(layer.router().num_experts())).expect("one count an expert");
            Self {
                answers: Tensor::stack(&answers, 0),
                ratios: ratios(&routing.weights),
                logits: routing.logits,
                usage: usage.into_iter().map(f64::from).collect(),
                wanted,
            }
        })
    }

    /// How many of the tokens each expert was given, `[e]`.
    pub fn usage(&self) -> &[f64] {
        &self.usage
    }

    /// The median over tokens of the second weight's share of the first: with it as
    /// [`crate::RouterConfig::skip_below`], about half of the tokens skip their second expert.
    ///
    /// Source: Lu et al. 2024, arXiv:2402.14800, section 4.3. None where tokens have one expert.
    pub fn skip_threshold(&self) -> Option<f64> {
        let middle = self.ratios.len() / 2;
        match (self.ratios.len(), self.ratios.len() % 2) {
            (0, _) => None,
            (_, 0) => Some(f64::midpoint(self.ratios[middle - 1], self.ratios[middle])),
            _ => Some(self.ratios[middle]),
        }
    }

    /// How far the layer with `kept` experts is from the whole one: `‖Z - Z'‖_F` over all sample tokens.
    pub fn distance(&self, layer: &Experts, kept: &[usize]) -> Result<f64> {
        let router = layer.router().keeping(kept)?;
        let rows = indices(kept);
        let routing = router.choose(&self.logits.index_select(1, &rows));
        let mut sum = self.wanted.zeros_like();
        for (position, &expert) in kept.iter().enumerate() {
            let is_chosen = routing.chosen.eq(position as i64).to_kind(Kind::Float);
            let weight = (&routing.weights * is_chosen).sum_dim_intlist(-1, true, Kind::Float);
            sum += self.answers.get(expert as i64) * weight;
        }
        let apart = (sum - &self.wanted).to_kind(Kind::Double);
        Ok(apart.square().sum(Kind::Double).sqrt().double_value(&[]))
    }
}

/// The second weight over the first, ascending.
fn ratios(weights: &Tensor) -> Vec<f64> {
    if weights.size()[1] < 2 {
        return Vec::new();
    }
    let best = weights.topk(2, -1, true, true).0;
    let ratios = best.select(1, 1) / best.select(1, 0);
    let mut ratios: Vec<f64> = Vec::try_from(ratios.to_kind(Kind::Double)).expect("one ratio a token");
    ratios.sort_by(f64::total_cmp);
    ratios
}

pub(crate) fn indices(experts: &[usize]) -> Tensor {
    let experts: Vec<i64> = experts.iter().map(|&expert| expert as i64).collect();
    Tensor::from_slice(&experts)
}
