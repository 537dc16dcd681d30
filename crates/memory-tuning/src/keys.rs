//! Product keys: the k best of n² keys for the price of 2n.
//!
//! A key is a pair of sub-keys, its score the sum of both halves' scores: `s_ij = q¹·K¹_i + q²·K²_j`. The k best pairs
//! are among the k best of each half, and of these a pair of the (i+1)-th and (j+1)-th best has (i+1)(j+1) - 1 pairs at
//! least as good before it: only pairs with (i+1)(j+1) ≤ k need their sum taken. Exact, not approximate.
//!
//! Source: Lample et al. 2019, arXiv:1907.05242, section 3.1; the hyperbola of pairs is ours.
//! Shapes: t tokens, d query width, n sub-keys of a half, N = n² experts, k chosen.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};
use rand_distr::StandardNormal;
use tch::Tensor;

/// Two sets of sub-keys, `[n, d/2]` f32 each; expert `i·n + j` has sub-keys i and j.
#[derive(Debug)]
pub struct ProductKeys {
    halves: [Tensor; 2],
}

impl ProductKeys {
    /// From both sets.
    ///
    /// # Panics
    /// If they differ in shape.
    pub fn new(first: Tensor, second: Tensor) -> Self {
        assert_eq!(first.size(), second.size(), "both halves are alike");
        Self {
            halves: [first, second],
        }
    }

    /// `n` sub-keys a half for queries of width `query_dim`: random directions, all of length √(d/2).
    ///
    /// Deviation: U(±1/√d) in the paper. Of one length, no sub-key is nearest more often because it is long.
    pub fn random(n: usize, query_dim: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let width = query_dim / 2;
        let mut half = || {
            let mut values = Vec::with_capacity(n * width);
            for _ in 0..n {
                let key: Vec<f32> = (0..width).map(|_| rng.sample(StandardNormal)).collect();
                let length = key.iter().map(|value| value * value).sum::<f32>().sqrt();
                values.extend(
                    key.iter()
                        .map(|value| value * (width as f32).sqrt() / length.max(1e-12)),
                );
            }
            Tensor::from_slice(&values).view([n as i64, width as i64])
        };
        let first = half();
        Self::new(first, half())
    }

    /// Both sets of sub-keys.
    pub fn halves(&self) -> &[Tensor; 2] {
        &self.halves
    }

    /// n.
    pub fn num_keys(&self) -> usize {
        self.halves[0].size()[0] as usize
    }

    /// The `k` best experts of each query (`[t, d]` f32) and their scores, best first: `[t, k]` i64 and f32, the scores
    /// differentiable.
    ///
    /// # Panics
    /// If there are fewer than `k` experts.
    pub fn best(&self, queries: &Tensor, k: usize) -> (Tensor, Tensor) {
        let n = self.num_keys();
        assert!(k <= n * n, "{k} of {} experts", n * n);
        let best = |half: usize| {
            let scores = self.half_scores(queries, half);
            scores.topk(k.min(n) as i64, -1, true, true)
        };
        let ((scores1, keys1), (scores2, keys2)) = (best(0), best(1));
        let (rank1, rank2) = hyperbola(k, n);
        let pick = |of: &Tensor, ranks: &[i64]| of.index_select(1, &Tensor::from_slice(ranks).to_device(of.device()));
        let sums = pick(&scores1, &rank1) + pick(&scores2, &rank2);
        let (scores, chosen) = sums.topk(k as i64, -1, true, true);
        let experts = pick(&keys1, &rank1) * n as i64 + pick(&keys2, &rank2);
        (experts.gather(1, &chosen, false), scores)
    }

    /// The same by taking every score.
    pub fn best_of_all(&self, queries: &Tensor, k: usize) -> (Tensor, Tensor) {
        let all = self.half_scores(queries, 0).unsqueeze(2) + self.half_scores(queries, 1).unsqueeze(1);
        let (scores, experts) = all.flatten(1, 2).topk(k as i64, -1, true, true);
        (experts, scores)
    }

    /// `[t, n]` scores of one half's sub-keys.
    pub(crate) fn half_scores(&self, queries: &Tensor, half: usize) -> Tensor {
        let width = self.halves[half].size()[1];
        let part = queries.narrow(1, half as i64 * width, width);
        part.matmul(&self.halves[half].to_kind(part.kind()).tr())
    }

    /// The same keys in another order of experts: `orders` gives each half's old sub-key at each new place.
    #[must_use]
    pub fn permuted(&self, orders: [&[i64]; 2]) -> Self {
        let [first, second] =
            [0, 1].map(|half: usize| self.halves[half].index_select(0, &Tensor::from_slice(orders[half])));
        Self::new(first, second)
    }
}

/// The ranks (from 0) in each half of the pairs that can be among the k best.
fn hyperbola(k: usize, n: usize) -> (Vec<i64>, Vec<i64>) {
    let pairs = (0..k.min(n)).flat_map(|i| (0..(k / (i + 1)).min(n)).map(move |j| (i as i64, j as i64)));
    pairs.unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted numbers of one token's experts.
    fn set(experts: &Tensor, token: i64) -> Vec<i64> {
        let mut row: Vec<i64> = Vec::try_from(experts.get(token)).unwrap();
        row.sort_unstable();
        row
    }

    #[test]
    fn the_best_are_those_of_all() {
        let mut rng = StdRng::seed_from_u64(5);
        for round in 0..200 {
            let n = rng.random_range(1..24usize);
            let k = rng.random_range(1..=(n * n).min(40));
            let width = 2 * rng.random_range(2..9usize);
            let keys = ProductKeys::random(n, width, round);
            let t = 5;
            let values: Vec<f32> = (0..t * width).map(|_| rng.random_range(-2.0..2.0)).collect();
            let queries = Tensor::from_slice(&values).view([t as i64, width as i64]);
            let (experts, scores) = keys.best(&queries, k);
            let (all_experts, all_scores) = keys.best_of_all(&queries, k);
            // The same two halves are added in the same order, so the sums are the same numbers.
            assert_eq!(scores, all_scores, "n {n}, k {k}");
            for token in 0..t as i64 {
                assert_eq!(set(&experts, token), set(&all_experts, token), "n {n}, k {k}");
            }
        }
    }

    #[test]
    fn ties_still_give_the_best_scores_and_no_expert_twice() {
        let half = || Tensor::from_slice(&[1.0f32, 1.0, 0.0, 1.0]).view([4, 1]);
        let keys = ProductKeys::new(half(), half());
        let queries = Tensor::from_slice(&[1.0f32, 1.0]).view([1, 2]);
        for k in 1..=16 {
            let (experts, scores) = keys.best(&queries, k);
            assert_eq!(scores, keys.best_of_all(&queries, k).1, "k {k}");
            let mut found = set(&experts, 0);
            found.dedup();
            assert_eq!(found.len(), k);
        }
    }

    #[test]
    fn few_pairs_are_taken() {
        // k ln k, not k².
        assert_eq!(hyperbola(32, 1024).0.len(), 119);
        assert_eq!(hyperbola(4, 2), (vec![0, 0, 1, 1], vec![0, 1, 0, 1]));
    }
}
