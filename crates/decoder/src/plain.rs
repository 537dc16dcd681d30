//! The cross-entropy of a plain head, written out.

use tch::{Kind, Tensor};

pub(crate) fn linear_cross_entropy(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Tensor {
    -token_log_probs(hidden, weight, targets).sum(Kind::Float)
}

pub(crate) fn token_log_probs(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Tensor {
    let logits = hidden.matmul(&weight.to_kind(hidden.kind()).tr()).to_kind(Kind::Float);
    let each = logits
        .log_softmax(-1, Kind::Float)
        .gather(1, &targets.clamp_min(0).unsqueeze(1), false)
        .squeeze_dim(1);
    each.masked_fill(&targets.lt(0), 0.0)
}
