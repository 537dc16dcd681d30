//! On-line softmax over columns: 32 queries in two vectors, keys one after the other.
//!
//! Source: Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3.

use tensor_core::tile::{BLOCK, LANES, Number, TileLanes, exp2};
use tensor_core::vector::Lanes;

/// Below every score, but finite: the maximum of nothing.
pub(crate) const LOWEST: f32 = -1e30;

/// Two halves of a row of 32.
#[inline(always)]
pub(crate) fn halves<L: Lanes>(row: &[f32]) -> [L; 2] {
    let row: &[f32; BLOCK] = row.first_chunk().expect("a row of 32");
    let (low, high) = row.split_at(LANES);
    // No closure: see `scratch::Held`.
    [
        L::load(low.first_chunk().expect("half a row")),
        L::load(high.first_chunk().expect("half a row")),
    ]
}

/// Writes what [`halves`] read.
#[inline(always)]
pub(crate) fn store_halves<L: Lanes>(halves: [L; 2], row: &mut [f32]) {
    let (low, high) = row.split_at_mut(LANES);
    halves[0].store(low.first_chunk_mut().expect("half a row"));
    halves[1].store(high.first_chunk_mut().expect("half a row"));
}

/// The largest of each lane, and of `so_far`. NaN is left to the sums.
#[inline(always)]
pub(crate) fn maximum<L: TileLanes>(scores: &[f32], so_far: [L; 2]) -> [L; 2] {
    // Two chains, since a maximum takes as long as four can be begun in.
    let mut chains = [so_far; 2];
    for rows in scores.chunks_exact(2 * BLOCK) {
        for (chain, row) in chains.iter_mut().zip(rows.chunks_exact(BLOCK)) {
            let [x, y] = halves(row);
            *chain = [chain[0].at_least(x), chain[1].at_least(y)];
        }
    }
    [chains[0][0].at_least(chains[1][0]), chains[0][1].at_least(chains[1][1])]
}

/// Multiplies 32 columns of rows `stride` apart.
#[inline(always)]
pub(crate) fn rescale<L: Lanes>(sums: &mut [f32], stride: usize, factor: [L; 2]) {
    for row in sums.chunks_mut(stride) {
        let [x, y]: [L; 2] = halves(row);
        store_halves([x * factor[0], y * factor[1]], row);
    }
}

/// Writes `2^(scale · score - shift)` as two panels and returns their sums, added to `sum`.
#[inline(always)]
pub(crate) fn exponentials<L: TileLanes, T: Number>(
    scores: &[f32],
    scale: L,
    shift: [L; 2],
    sum: [L; 2],
    to: &mut [T],
) -> [L; 2] {
    let (low, high) = to.split_at_mut(to.len() / 2);
    let shift = [L::splat(0.0) - shift[0], L::splat(0.0) - shift[1]];
    let mut even_sum = sum;
    let mut odd_sum = [L::splat(0.0); 2];
    for (pair, rows) in scores.chunks_exact(2 * BLOCK).enumerate() {
        let (even, odd) = rows.split_at(BLOCK);
        let even: [L; 2] = halves(even);
        let odd: [L; 2] = halves(odd);
        let even = [
            exp2(even[0].mul_add(scale, shift[0])),
            exp2(even[1].mul_add(scale, shift[1])),
        ];
        let odd = [
            exp2(odd[0].mul_add(scale, shift[0])),
            exp2(odd[1].mul_add(scale, shift[1])),
        ];
        even_sum = [even_sum[0] + even[0], even_sum[1] + even[1]];
        odd_sum = [odd_sum[0] + odd[0], odd_sum[1] + odd[1]];
        T::store_pairs(even[0], odd[0], &mut low[pair * 2 * LANES..][..2 * LANES]);
        T::store_pairs(even[1], odd[1], &mut high[pair * 2 * LANES..][..2 * LANES]);
    }
    [even_sum[0] + odd_sum[0], even_sum[1] + odd_sum[1]]
}
