//! The same by libtorch's operators, some rows at a time: for devices and dtypes that have no fused kernel.

use tch::{Kind, Tensor};

use super::targets::Kept;
use super::{Found, Wanted};

/// Rows of a chunk: enough to fill a GPU, while 150,000 words take 2.5 GB in f32.
const ROWS: i64 = 4096;

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
    for (start, len) in chunks(n) {
        let (rows, targets) = (hidden.narrow(0, start, len), kept.targets.narrow(0, start, len));
        let logits = rows.matmul(&weight.tr()).to_kind(wide);
        let sums = logits.logsumexp([-1], false);
        let chosen = logits.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
        log_probs.narrow(0, start, len).copy_(&(chosen - &sums));
        lse.narrow(0, start, len).copy_(&sums);
        if entropies.is_none() && direction.is_none() {
            continue;
        }
        let probabilities = (&logits - sums.unsqueeze(1)).exp();
        if let Some(entropies) = &entropies {
            let mean = (&probabilities * &logits).sum_dim_intlist(-1, false, wide);
            entropies.narrow(0, start, len).copy_(&(&sums - mean));
        }
        if let Some(direction) = &direction {
            let mean = probabilities.to_kind(weight.kind()).matmul(weight);
            direction
                .narrow(0, start, len)
                .copy_(&(weight.index_select(0, &targets) - mean));
        }
    }
    Found {
        log_probs: log_probs.to_kind(Kind::Float),
        lse,
        entropies: entropies.map(|x| x.to_kind(Kind::Float)),
        direction,
    }
}

pub(super) fn weight_gradient(
    hidden: &Tensor,
    weight: &Tensor,
    kept: &Kept,
    lse: &Tensor,
    gradient: &Tensor,
) -> Tensor {
    let hidden = kept.gather(hidden);
    let (n, wide) = (hidden.size()[0], wide(hidden.kind()));
    let mut sum = Tensor::zeros(weight.size(), (wide, weight.device()));
    for (start, len) in chunks(n) {
        let rows = hidden.narrow(0, start, len);
        let logits = rows.matmul(&weight.tr()).to_kind(wide);
        let factor = gradient.narrow(0, start, len).to_kind(wide).unsqueeze(1);
        let slopes = (logits - lse.narrow(0, start, len).unsqueeze(1)).exp() * -&factor;
        let slopes = slopes.scatter_add(1, &kept.targets.narrow(0, start, len).unsqueeze(1), &factor);
        sum += slopes.to_kind(weight.kind()).tr().matmul(&rows);
    }
    sum.to_kind(weight.kind())
}

fn chunks(n: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..n)
        .step_by(ROWS as usize)
        .map(move |start| (start, ROWS.min(n - start)))
}

fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    }
}
