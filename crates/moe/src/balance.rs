//! Even load: losses that push the router towards it, a bias that does so without a gradient, and how uneven it is.
//!
//! Shapes: t tokens, e experts, k chosen experts.

use tch::{Kind, Tensor};

/// Coefficients of what a layer adds to the loss while training, for one layer: where several layers share a
/// coefficient, each has its part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Balance {
    /// Of [`load_balancing_loss`].
    pub aux: f64,
    /// Of [`z_loss`].
    pub z: f64,
}

/// `e Σ_i (c_i / t) P_i`: k where probabilities are even, whatever the counts, and more where they follow each other.
///
/// `probabilities`: `[t, e]`, with a graph; `counts`: `[e]`, how many tokens each expert was given. A scalar.
///
/// Sources: Fedus et al. 2021, arXiv:2101.03961, eq. 4 to 6, with k experts a token as Transformers counts them. Switch
/// and `MegaBlocks` divide by k too, so that 1 is even. Deviation: of one layer, where Transformers puts the tokens of all
/// layers together, in which opposite imbalances cancel.
pub fn load_balancing_loss(probabilities: &Tensor, counts: &Tensor) -> Tensor {
    let (t, e) = probabilities.size2().expect("probabilities are [t, e]");
    let share = counts.detach().to_kind(probabilities.kind()) / t as f64;
    let mean = probabilities.mean_dim(&[0i64][..], false, probabilities.kind());
    (share * mean).sum(probabilities.kind()) * e as f64
}

/// `mean (log Σ_i exp z_i)²`: keeps the logits `[t, e]` small.
///
/// Source: Zoph et al. 2022, arXiv:2202.08906, eq. 5.
pub fn z_loss(logits: &Tensor) -> Tensor {
    logits.logsumexp(&[-1i64][..], false).square().mean(logits.kind())
}

/// `max_i c_i / mean c - 1`: by what share the fullest expert has more than its part; 0 is even.
///
/// Source: Wang et al. 2024, arXiv:2408.15664, eq. 4.
pub fn max_violation(counts: &[f64]) -> f64 {
    let mean = counts.iter().sum::<f64>() / counts.len().max(1) as f64;
    if mean == 0.0 {
        return 0.0;
    }
    counts.iter().fold(0.0f64, |most, count| most.max(*count)) / mean - 1.0
}

/// One step of balancing without a loss: `b_i += rate · sign(mean c - c_i)`, then the mean taken out, in place.
///
/// `bias`: `[e]` f32; `counts`: `[e]`, of the step's tokens. Weights stay what they are for a given choice.
///
/// Source: Wang et al. 2024, arXiv:2408.15664, algorithm 1. Deviation: the mean is taken out, which changes no choice and
/// keeps the numbers small.
pub fn update_bias(bias: &Tensor, counts: &[f64], rate: f64) {
    let mean = counts.iter().sum::<f64>() / counts.len().max(1) as f64;
    let steps: Vec<f32> = counts
        .iter()
        .map(|count| match mean - count {
            0.0 => 0.0,
            less => (rate * less.signum()) as f32,
        })
        .collect();
    tch::no_grad(|| {
        let moved = bias + Tensor::from_slice(&steps).to_device(bias.device());
        let mean = moved.mean(Kind::Float);
        bias.shallow_clone().copy_(&(moved - mean));
    });
}
