//! Attention by libtorch's operators, differentiable by libtorch, for any device and dtype.

use tch::{Kind, Tensor};
use tensor_core::Documents;

/// The plain twin of [`super::attention`]: one call of libtorch's attention a document.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    documents: &Documents,
    scale: f64,
    window: Option<usize>,
) -> Tensor {
    let parts: Vec<Tensor> = documents
        .ranges()
        .map(|range| {
            let part = |x: &Tensor| x.narrow(0, range.start as i64, range.len() as i64);
            causal(&part(q), &part(k), &part(v), scale, window)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

/// One sequence: queries `[n, h, d]` at the last n positions of keys and values `[m, g, d]`, m ≥ n.
pub(super) fn causal(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, window: Option<usize>) -> Tensor {
    let (num_queries, num_keys) = (q.size()[0], k.size()[0]);
    let heads_first = |x: &Tensor| x.transpose(0, 1).unsqueeze(0);
    let plain = num_queries == num_keys && window.is_none_or(|window| window as i64 >= num_keys);
    let mask = (!plain).then(|| {
        let first = num_keys - num_queries;
        let seen = Tensor::ones([num_queries, num_keys], (Kind::Bool, q.device())).tril(first);
        match window {
            Some(window) => seen.logical_and(&seen.triu(first + 1 - window as i64)),
            None => seen,
        }
    });
    let out = Tensor::scaled_dot_product_attention(
        &heads_first(q),
        &heads_first(k),
        &heads_first(v),
        mask,
        0.0,
        plain,
        scale,
        q.size()[1] != k.size()[1],
    );
    out.squeeze_dim(0).transpose(0, 1)
}
