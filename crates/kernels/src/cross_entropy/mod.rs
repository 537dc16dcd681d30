//! The language-model head fused with its loss: the logits of all tokens never exist together.
//!
//! `log p_i = h_i·w_{y_i} - log Σ_j e^{h_i·w_j}`, whose gradient for `h_i` is `w_{y_i} - Σ_j p_ij w_j`. That sum is attention
//! of h over the vocabulary with the weight as keys and values, so one pass of on-line softmax over blocks of the
//! vocabulary gives the loss and the gradient's direction; the backward pass scales it. A weight that trains gets its
//! gradient in the backward pass, from logits computed again block by block. Ignored tokens are dropped first.
//!
//! For a token that the model is sure of, p near 1, the gradient is `1 - p` in size: the target is kept apart from the
//! other words, and `1 - p` is formed in f32 of their sum before anything is rounded to bf16.
//!
//! Source: Wijmans et al. 2024, arXiv:2411.09009, for the idea. Deviation: the direction comes out of the forward pass.
//!
//! Shapes: t tokens, n of them with a target, d model width, v vocabulary.

mod chunked;
mod forward;
pub mod reference;
mod targets;
mod weight;

use half::bf16;
use tch::{Device, Kind, Tensor};
use tensor_core::autograd;
use tensor_core::tile::Number;
use tensor_core::tile::scratch::Plain;

use targets::Kept;

/// The target of a token that does not count.
pub const IGNORED: i64 = -100;

/// `-Σ log p(target)` over the tokens that have one, in nats: a scalar f32.
///
/// `hidden`: `[t, d]`; `weight`: `[v, d]`, dtype of hidden; `targets`: `[t]` i64, [`IGNORED`] where there is none.
///
/// # Panics
/// If shapes do not belong together or a target is not in the vocabulary.
pub fn linear_cross_entropy(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Tensor {
    -token_log_probs(hidden, weight, targets).sum(Kind::Float)
}

/// Log-probability of each token's target, in nats: `[t]` f32, 0 where the target is [`IGNORED`].
///
/// Arguments and panics as for [`linear_cross_entropy`]. Differentiable by any gradient per token.
pub fn token_log_probs(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Tensor {
    compute(hidden, weight, targets, false).0
}

/// [`token_log_probs`], and the entropy of each distribution in nats, 0 where ignored: `[t]` f32 without gradient.
pub fn token_log_probs_and_entropies(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
    let (log_probs, entropies) = compute(hidden, weight, targets, true);
    (log_probs, entropies.expect("asked for"))
}

/// What is to be computed besides log-probabilities.
#[derive(Clone, Copy)]
struct Wanted {
    /// The gradient's direction for the hidden state.
    direction: bool,
    entropies: bool,
}

/// What a pass over the vocabulary finds about the n tokens that count; f32 but for the direction.
struct Found {
    /// `[n]`.
    log_probs: Tensor,
    /// `[n]`, in nats.
    lse: Tensor,
    /// `[n]`.
    entropies: Option<Tensor>,
    /// `[n, d]`, dtype of hidden.
    direction: Option<Tensor>,
}

fn compute(hidden: &Tensor, weight: &Tensor, targets: &Tensor, entropies: bool) -> (Tensor, Option<Tensor>) {
    let fits = |kind| {
        [hidden, weight]
            .iter()
            .all(|x| x.device() == Device::Cpu && x.kind() == kind)
    };
    let ways = if fits(Kind::Float) {
        Ways::fused::<f32>()
    } else if fits(Kind::BFloat16) {
        Ways::fused::<bf16>()
    } else {
        Ways::chunked()
    };
    compute_by(&ways, hidden, weight, targets, entropies)
}

fn compute_by(
    ways: &Ways,
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    entropies: bool,
) -> (Tensor, Option<Tensor>) {
    let (t, d) = hidden.size2().expect("hidden is [tokens, width]");
    let (vocabulary, width) = weight.size2().expect("the weight is [vocabulary, width]");
    assert_eq!(d, width, "the head is as wide as the hidden state");
    assert!(vocabulary > 0 && d > 0, "a head of {vocabulary} words of {d} numbers");
    assert_eq!(hidden.kind(), weight.kind(), "the head has the hidden state's dtype");
    assert_eq!(hidden.device(), weight.device(), "the head lies with the hidden state");
    assert_eq!(targets.size(), [t], "a target for every token");
    let backward = ways.backward;
    let kept = Kept::of(targets, vocabulary);
    let wants = autograd::wants(&[hidden, weight]);
    let wanted = Wanted {
        direction: wants && hidden.requires_grad(),
        entropies,
    };
    let Found {
        log_probs,
        lse,
        entropies,
        direction,
    } = tch::no_grad(|| (ways.forward)(hidden, weight, &kept, wanted));
    let (log_probs, entropies) = tch::no_grad(|| (kept.spread(&log_probs), entropies.map(|x| kept.spread(&x))));
    if !wants {
        return (log_probs, entropies);
    }
    let saved = weight.requires_grad().then(|| Saved {
        hidden: hidden.detach(),
        weight: weight.detach(),
        lse,
        // 1 - p, as exact as log p is.
        missing: tch::no_grad(|| -kept.gather(&log_probs).expm1()),
    });
    let log_probs = autograd::attach(&[hidden, weight], log_probs, move |gradient| {
        let Some(gradient) = gradient else {
            return vec![None, None];
        };
        let gradient = kept.gather(&gradient.to_kind(Kind::Float)).contiguous();
        let of_hidden = direction.map(|direction| {
            // In f32: a factor that all tokens share must not be rounded to bf16.
            kept.spread(&(&direction * gradient.unsqueeze(1)).to_kind(direction.kind()))
        });
        let of_weight = saved.map(|saved| {
            let slopes = Slopes {
                of_target: &gradient * saved.missing,
                of_words: gradient,
            };
            backward(&saved.hidden, &saved.weight, &kept, &saved.lse, &slopes)
        });
        vec![of_hidden, of_weight]
    });
    (log_probs, entropies)
}

/// What the gradient of a weight that trains is computed from.
struct Saved {
    hidden: Tensor,
    weight: Tensor,
    /// `[n]`.
    lse: Tensor,
    /// `1 - p` of each target, `[n]` f32.
    missing: Tensor,
}

/// The gradients of each token's scores, `[n]` f32.
struct Slopes {
    /// Of the target's: `dy (1 - p)`.
    of_target: Tensor,
    /// `dy`: another word's is `-dy p`.
    of_words: Tensor,
}

/// The functions for one dtype and device.
struct Ways {
    forward: fn(&Tensor, &Tensor, &Kept, Wanted) -> Found,
    /// Gradient `[v, d]` of the weight from hidden, weight, log-sums and the scores' gradients.
    backward: fn(&Tensor, &Tensor, &Kept, &Tensor, &Slopes) -> Tensor,
}

impl Ways {
    fn fused<T: Number + Plain>() -> Self {
        Self {
            forward: forward::log_probs::<T>,
            backward: weight::gradient::<T>,
        }
    }

    fn chunked() -> Self {
        Self {
            forward: chunked::log_probs,
            backward: chunked::weight_gradient,
        }
    }
}

#[cfg(test)]
mod confident;
#[cfg(test)]
mod tests;
