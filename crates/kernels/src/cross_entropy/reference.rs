//! The head and its loss by libtorch's operators, differentiable by libtorch, with all logits in memory.

use tch::{Kind, Tensor};

use super::IGNORED;

/// The plain twin of [`super::linear_cross_entropy`].
pub fn linear_cross_entropy(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Tensor {
    -token_log_probs(hidden, weight, targets).sum(None::<Kind>)
}

/// The plain twin of [`super::token_log_probs`], in f32 or wider.
pub fn token_log_probs(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Tensor {
    let ignored = targets.eq(IGNORED);
    let wide = if hidden.kind() == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    };
    let all = hidden.matmul(&weight.tr()).to_kind(wide).log_softmax(-1, None::<Kind>);
    let targets = targets.masked_fill(&ignored, 0).unsqueeze(1);
    all.gather(1, &targets, false).squeeze_dim(1).masked_fill(&ignored, 0.0)
}

/// The plain twin of [`super::token_log_probs_and_entropies`]: the entropies alone.
pub fn entropies(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Tensor {
    let wide = if hidden.kind() == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    };
    let all = hidden.matmul(&weight.tr()).to_kind(wide).log_softmax(-1, None::<Kind>);
    let entropies = -(all.exp() * all).sum_dim_intlist(-1, false, None::<Kind>);
    entropies.masked_fill(&targets.eq(IGNORED), 0.0)
}
