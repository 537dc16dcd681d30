//! Tokens sorted by expert, so that each expert is one matrix product over all of its tokens, and none is dropped.
//!
//! Shapes: t tokens, d model width, e experts, k chosen experts, n ≤ t k pairs of token and expert.

use tch::{Kind, Tensor};

/// The pairs of token and expert of a row, sorted by expert, in the row's order within each.
#[derive(Debug)]
pub struct Dispatch {
    /// The token of each sorted pair, `[n]` i64.
    tokens: Tensor,
    /// Where each pair `[t, k]` went among the sorted ones, `[t k]` i64; those that were skipped lie behind the others.
    places: Tensor,
    /// Pairs of each expert, `[e]`.
    counts: Vec<i64>,
    shape: [i64; 2],
}

impl Dispatch {
    /// Of the experts chosen among `num_experts` for a row's tokens, `[t, k]` i64; e for none.
    pub fn of(chosen: &Tensor, num_experts: usize) -> Self {
        let (t, k) = chosen.size2().expect("experts are chosen as [t, k]");
        let order = chosen.reshape([-1]).sort_stable(true, 0, false).1;
        let pairs = Tensor::arange(t * k, (Kind::Int64, chosen.device()));
        let places = order.zeros_like().scatter(0, &order, &pairs);
        let counts: Vec<i64> = Vec::<f32>::try_from(counts(chosen, num_experts))
            .expect("one count an expert")
            .into_iter()
            .map(|count| count as i64)
            .collect();
        let tokens = order.narrow(0, 0, counts.iter().sum()).divide_scalar_mode(k, "floor");
        Self {
            tokens,
            places,
            counts,
            shape: [t, k],
        }
    }

    /// Pairs of each expert, `[e]`.
    pub fn counts(&self) -> &[i64] {
        &self.counts
    }

    /// The token of each sorted pair, `[n]` i64.
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    /// Each token's results, weighed and summed: `sorted` `[n, d]` and weights `[t, k]` f32 to `[t, d]`.
    pub fn combine(&self, sorted: &Tensor, weights: &Tensor) -> Tensor {
        let [t, k] = self.shape;
        let (n, d) = sorted.size2().expect("results are [n, d]");
        let all = if n == t * k {
            sorted.shallow_clone()
        } else {
            Tensor::cat(
                &[
                    sorted,
                    &sorted.new_zeros([t * k - n, d], (sorted.kind(), sorted.device())),
                ],
                0,
            )
        };
        let by_token = all.index_select(0, &self.places).view([t, k, d]);
        weights
            .to_kind(sorted.kind())
            .unsqueeze(1)
            .bmm(&by_token)
            .squeeze_dim(1)
    }
}

/// How often each of `num_experts` stands in `chosen`, `[e]` f32.
pub(crate) fn counts(chosen: &Tensor, num_experts: usize) -> Tensor {
    let counts = chosen.flatten(0, -1).bincount::<Tensor>(None, num_experts as i64 + 1);
    counts.narrow(0, 0, num_experts as i64).to_kind(Kind::Float)
}
