//! P and dS of a block, from its scores and the gradients of its probabilities.

use tensor_core::tile::{BLOCK, LANES, Number, TileLanes, exp2};

use super::{Memory, ROWS, STEP};
use crate::softmax::halves;

/// What a block's 32 rows bring to every key.
pub(super) struct RowValues<L> {
    pub(super) scale: L,
    pub(super) lse: [L; 2],
    pub(super) delta: [L; 2],
    pub(super) bounds: [[L; 2]; 2],
}

/// P and dS of 32 keys: `to` is the key's place in P and dS, `from` that in the scores.
#[inline(always)]
pub(super) fn differentiate<L: TileLanes, T: Number, const MASKED: bool>(
    rows: &RowValues<L>,
    memory: &mut Memory<T>,
    row: usize,
    [to, from]: [usize; 2],
    first_key: usize,
) {
    let [p_rows, ds_rows, ds_panels] = &mut memory.probabilities;
    let [scores, gradients] = &memory.scores;
    for key in (0..BLOCK).step_by(2) {
        let mut p = [[L::splat(0.0); 2]; 2];
        let mut ds = p;
        for odd in 0..2 {
            let at = (from + key + odd) * BLOCK;
            let score: [L; 2] = halves(&scores[at..]);
            let gradient: [L; 2] = halves(&gradients[at..]);
            for half in 0..2 {
                let mut score = score[half];
                if MASKED {
                    let [first, last] = rows.bounds[half];
                    score = score.between((first_key + key + odd) as f32, first, last);
                }
                let probability = exp2(score * rows.scale - rows.lse[half]);
                p[half][odd] = probability;
                ds[half][odd] = probability * (gradient[half] - rows.delta[half]);
            }
        }
        let (even, odd) = ((to + key) * ROWS + row, (to + key + 1) * ROWS + row);
        for half in 0..2 {
            let lane = half * LANES;
            for (rows, values) in [(&mut *p_rows, p[half]), (&mut *ds_rows, ds[half])] {
                let (before, after) = rows.split_at_mut(odd);
                T::store_rows(values[0], values[1], &mut before[even + lane..], &mut after[lane..]);
            }
            let panel = (row / LANES + half) * STEP * LANES;
            T::store_pairs(
                ds[half][0],
                ds[half][1],
                &mut ds_panels[panel + (to + key) * LANES..][..2 * LANES],
            );
        }
    }
}

/// No probability for 32 rows and these keys of the step.
#[inline(always)]
pub(super) fn clear<T: Number>(memory: &mut Memory<T>, row: usize, keys: std::ops::Range<usize>) {
    let [p, ds, panels] = &mut memory.probabilities;
    for key in keys.clone() {
        p[key * ROWS + row..][..BLOCK].fill(T::default());
        ds[key * ROWS + row..][..BLOCK].fill(T::default());
    }
    for panel in [row / LANES, row / LANES + 1] {
        panels[(panel * STEP + keys.start) * LANES..(panel * STEP + keys.end) * LANES].fill(T::default());
    }
}
