//! The same by libtorch's operators, some rows at a time: for devices and dtypes that have no fused kernel.
//!
//! Scores come out of their product in f32 at least. The target is kept apart from the other words, so that `1 - p` is a
//! sum of small numbers and never a difference of two near 1; rounding to the weight's dtype comes after that.

use tch::{Kind, Tensor};
use tensor_core::lists;

use super::targets::Kept;
use super::{Found, Slopes, Wanted};

/// Rows of a chunk: enough to fill a GPU, while 150,000 words take 2.5 GB in f32.
const ROWS: i64 = 4096;
/// Words whose vectors exist in f32 at once, where a product of narrow numbers cannot come out in f32.
const WORDS: i64 = 8192;

pub(super) fn log_probs(hidden: &Tensor, weight: &Tensor, kept: &Kept, wanted: Wanted) -> Found {
    let hidden = kept.gather(hidden);
    let (n, d) = hidden.size2().expect("hidden is [tokens, width]");
    let wide = wide(hidden.kind());
    let empty = || Tensor::empty([n], (wide, hidden.device()));
    let (log_probs, lse) = (empty(), empty());
    let entropies = wanted.entropies.then(empty);
    let direction = wanted
        .direction
        .then(|| Tensor::empty([n, d], (hidden.kind(), hidden.device())));
    for (start, len) in chunks(n, ROWS) {
        let (rows, targets) = (hidden.narrow(0, start, len), kept.targets.narrow(0, start, len));
        let at = targets.unsqueeze(1);
        let mut others = scores(&rows, weight, wide);
        let chosen = others.gather(1, &at, false);
        let _ = others.scatter_value_(1, &at, f64::NEG_INFINITY);
        let of_others = others.logsumexp([-1], true);
        // log p = -log(1 + Σ others / target). A score that is not finite must not look certain.
        let log_p = (&chosen - &of_others).log_sigmoid() + &chosen * 0.0;
        let sums = &chosen - &log_p;
        log_probs.narrow(0, start, len).copy_(&log_p.squeeze_dim(1));
        lse.narrow(0, start, len).copy_(&sums.squeeze_dim(1));
        if entropies.is_none() && direction.is_none() {
            continue;
        }
        let mut probabilities = (others - &sums).exp();
        if let Some(entropies) = &entropies {
            let of_others = probabilities.xlogy(&probabilities).sum_dim_intlist(-1, false, wide);
            let of_target = (log_p.exp() * &log_p).squeeze_dim(1);
            entropies.narrow(0, start, len).copy_(&-(of_others + of_target));
        }
        if let Some(direction) = &direction {
            let mut slopes = probabilities.neg_();
            let slopes = slopes.scatter_(1, &at, &-log_p.expm1());
            direction
                .narrow(0, start, len)
                .copy_(&slopes.to_kind(weight.kind()).matmul(weight));
        }
    }
    Found {
        log_probs: log_probs.to_kind(Kind::Float),
        lse,
        entropies: entropies.map(|x| x.to_kind(Kind::Float)),
        direction,
    }
}

pub(super) fn weight_gradient(hidden: &Tensor, weight: &Tensor, kept: &Kept, lse: &Tensor, slopes: &Slopes) -> Tensor {
    let hidden = kept.gather(hidden);
    let (n, wide) = (hidden.size()[0], wide(hidden.kind()));
    let mut sum = Tensor::zeros(weight.size(), (wide, weight.device()));
    for (start, len) in chunks(n, ROWS) {
        let rows = hidden.narrow(0, start, len);
        let column = |x: &Tensor| x.narrow(0, start, len).to_kind(wide).unsqueeze(1);
        let probabilities = (scores(&rows, weight, wide) - column(lse)).exp();
        let mut all = probabilities * -column(&slopes.of_words);
        let at = kept.targets.narrow(0, start, len).unsqueeze(1);
        let all = all.scatter_(1, &at, &column(&slopes.of_target));
        sum += all.to_kind(weight.kind()).tr().matmul(&rows);
    }
    sum.to_kind(weight.kind())
}

/// `rows · weightᵀ` in dtype `wide`, never rounded to a narrower one: `[n, v]`.
fn scores(rows: &Tensor, weight: &Tensor, wide: Kind) -> Tensor {
    if rows.kind() == wide {
        return rows.matmul(&weight.tr());
    }
    if rows.device().is_cuda()
        && let Ok(scores) = lists::product_in_f32(rows, &weight.tr())
    {
        return scores;
    }
    let rows = rows.to_kind(wide);
    let parts = chunks(weight.size()[0], WORDS)
        .map(|(start, len)| rows.matmul(&weight.narrow(0, start, len).to_kind(wide).tr()))
        .collect::<Vec<_>>();
    match parts.as_slice() {
        [one] => one.shallow_clone(),
        parts => Tensor::cat(parts, 1),
    }
}

fn chunks(n: i64, most: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..n)
        .step_by(most as usize)
        .map(move |start| (start, most.min(n - start)))
}

fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    }
}
