//! The outer products on lanes: L is turned once; R's rows are woven in pairs on their way into the registers.
#![allow(unsafe_code)]

use std::ops::Range;

use half::bf16;

use crate::packed::outer::Sides;
use crate::parallel;
use crate::tile::pack::{self, Matrix};
use crate::tile::{BLOCK, LANES, TileKernel, TileLanes, Tiles, dispatch, prefetch, whole};

/// Tokens of a step: their part of R stays in a core's cache while all of L goes by.
const STEP: usize = 128;

/// The partner of an odd number of tokens' last one.
static ZEROS: [bf16; LANES] = [bf16::ZERO; LANES];

/// Computes all columns.
pub(crate) fn outer(sides: &Sides) {
    let rows = sides.rank.next_multiple_of(LANES);
    let mut turned = vec![bf16::ZERO; whole(sides.t) * rows];
    dispatch(Turn {
        left: Matrix::new(sides.left, sides.rank),
        rows,
        to: &mut turned,
    });
    parallel::for_each_range(sides.n / BLOCK, 1, |columns| {
        dispatch(Run {
            sides,
            turned: &turned,
            rows,
            columns,
        });
    });
}

struct Turn<'a> {
    left: Matrix<'a, bf16>,
    rows: usize,
    to: &'a mut [bf16],
}

impl TileKernel for Turn<'_> {
    #[inline(always)]
    fn run<L: TileLanes>(self, _: &Tiles) {
        pack::left_transposed::<L, bf16>(self.left, 0, self.rows, self.to);
    }
}

struct Run<'a> {
    sides: &'a Sides<'a>,
    /// Lᵀ in blocks of 32 tokens, each `[rows, 32]`.
    turned: &'a [bf16],
    rows: usize,
    columns: Range<usize>,
}

impl TileKernel for Run<'_> {
    #[inline(always)]
    fn run<L: TileLanes>(self, _: &Tiles) {
        let Sides { t, rank, .. } = *self.sides;
        for start in (0..t).step_by(STEP) {
            let tokens = start..t.min(start + STEP);
            for column in self.columns.clone() {
                let at = column * BLOCK;
                let mut row = 0;
                while row < rank {
                    let (left, tokens) = (rank - row, tokens.clone());
                    row += if left >= 8 && L::REGISTERS >= 32 {
                        self.block::<L, 8, 2>(tokens, row, at);
                        8
                    } else if left >= 4 && L::REGISTERS >= 32 {
                        self.block::<L, 4, 2>(tokens, row, at);
                        4
                    } else if left >= 4 {
                        self.block::<L, 4, 1>(tokens.clone(), row, at);
                        self.block::<L, 4, 1>(tokens, row, at + LANES);
                        4
                    } else {
                        self.block::<L, 1, 2>(tokens, row, at);
                        1
                    };
                }
            }
        }
    }
}

impl Run<'_> {
    /// Adds some tokens' part of `M` rows from `row` on, `16 N` columns from `column` on.
    #[inline(always)]
    fn block<L: TileLanes, const M: usize, const N: usize>(&self, tokens: Range<usize>, row: usize, column: usize) {
        let Sides { t, n, stride, .. } = *self.sides;
        let (right, target) = (self.sides.right.get(), self.sides.target.get());
        let mut sums = [[L::splat(0.0); N]; M];
        if tokens.start > 0 {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: sixteen numbers of this range's columns, which an earlier step wrote.
                    *sum = L::load(unsafe { &*target.add((row + i) * n + column + j * LANES).cast() });
                }
            }
        }
        for token in tokens.step_by(2) {
            if row == 0 {
                // The next step's numbers lie too far apart for the processor to foresee.
                let next = right.wrapping_add((token + STEP) * stride + column);
                prefetch(next);
                prefetch(next.wrapping_add(stride));
            }
            let left = &self.turned[(token / BLOCK * self.rows + row) * BLOCK + token % BLOCK..];
            for j in 0..N {
                // SAFETY: sixteen columns of tokens of R.
                let [even, odd] = unsafe {
                    let even = right.add(token * stride + column + j * LANES);
                    let odd = if token + 1 < t {
                        even.add(stride)
                    } else {
                        ZEROS.as_ptr().cast_mut()
                    };
                    [&*even.cast::<[bf16; LANES]>(), &*odd.cast::<[bf16; LANES]>()]
                };
                let pairs = L::weave(even, odd);
                for (i, sums) in sums.iter_mut().enumerate() {
                    sums[j] = sums[j].add_pairs([left[i * BLOCK], left[i * BLOCK + 1]], pairs);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                // SAFETY: sixteen numbers of this range's columns.
                sum.store(unsafe { &mut *target.add((row + i) * n + column + j * LANES).cast() });
            }
        }
    }
}
