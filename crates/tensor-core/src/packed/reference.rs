//! The plain twin: the same sums by libtorch's own products.

use tch::{Kind, Tensor};

use super::LowRankTerm;

/// `Lᵀ R` of `[t, r]` and `[t, n]`, in f32.
pub fn outer(left: &Tensor, right: &Tensor) -> Tensor {
    left.tr().matmul(right).to_kind(Kind::Float)
}

/// `Σ x Wᵀ + s (x Pᵀ) Qᵀ + onto`, and each `s x Pᵀ`, over dense weights `[n, k]`.
pub fn product(
    terms: &[(&Tensor, &Tensor, Option<LowRankTerm>)],
    onto: Option<&Tensor>,
) -> (Tensor, Vec<Option<Tensor>>) {
    let mut inners = Vec::with_capacity(terms.len());
    let mut sum: Option<Tensor> = onto.map(Tensor::shallow_clone);
    for (x, weight, low_rank) in terms {
        let mut y = x.matmul(&weight.tr());
        let inner = low_rank.map(|term| x.matmul(&term.inner.tr()) * term.scale);
        if let (Some(inner), Some(term)) = (&inner, low_rank) {
            y = y.addmm_(inner, &term.outer.tr());
        }
        inners.push(inner);
        sum = Some(match sum {
            Some(sum) => sum + y,
            None => y,
        });
    }
    (sum.unwrap_or_default(), inners)
}
