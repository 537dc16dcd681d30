//! The outer products on tiles: L is turned into row tiles once; R's rows are woven in pairs on their way, 64 columns at
//! a time.
#![allow(unsafe_code)]

use std::arch::x86_64 as x86;

use half::bf16;

use crate::packed::matrix::{Line, numbers_mut};
use crate::packed::outer::Sides;
use crate::parallel;
use crate::tile::{BLOCK, Sums, TileSums};

/// Computes all columns.
pub(crate) fn outer(sides: &Sides) {
    let Sides { t, rank, n, .. } = *sides;
    let steps = t.div_ceil(32);
    let rows = turned(sides.left, t, rank);
    parallel::for_each_range(n / BLOCK, 1, |range| {
        let tiles = TileSums::set_up();
        let mut sums = Sums([0.0; BLOCK * BLOCK]);
        let mut woven = [Line::ZERO; 64];
        for strip in 0..rank.div_ceil(16) {
            let mut column = range.start;
            while column < range.end {
                let pair = range.end - column >= 2;
                tiles.clear();
                for step in 0..steps {
                    // SAFETY: AVX-512 comes with the tiles; columns and tokens lie inside `right`.
                    unsafe { sides.weave(step, column, if pair { 2 } else { 1 }, &mut woven) };
                    let row = rows[(strip * steps + step) * 16..].as_ptr().cast();
                    // SAFETY: one row tile, and the column tiles just woven.
                    unsafe { tiles.add_one_row(row, woven.as_ptr().cast(), pair) };
                }
                tiles.store(&mut sums);
                sides.write(strip, column, if pair { 2 } else { 1 }, &sums);
                column += if pair { 2 } else { 1 };
            }
        }
    });
}

impl Sides<'_> {
    /// Weaves tokens `32 step..` of `blocks` column blocks into column tiles: two a block.
    ///
    /// # Safety
    /// AVX-512; the columns lie inside `right`.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn weave(&self, step: usize, column: usize, blocks: usize, woven: &mut [Line; 64]) {
        // SAFETY: rows below `t`, 32 columns each; lines are aligned.
        unsafe {
            let low = x86::_mm512_loadu_si512(LOW.as_ptr().cast());
            let high = x86::_mm512_loadu_si512(HIGH.as_ptr().cast());
            for block in 0..blocks {
                let from = self.right.get().add((column + block) * BLOCK);
                let read = |token: usize| {
                    if token < self.t {
                        x86::_mm512_loadu_si512(from.add(token * self.stride).cast())
                    } else {
                        x86::_mm512_setzero_si512()
                    }
                };
                for pair in 0..16 {
                    let (even, odd) = (read(step * 32 + 2 * pair), read(step * 32 + 2 * pair + 1));
                    let at = woven.as_mut_ptr().add(block * 32 + pair);
                    x86::_mm512_store_si512(at.cast(), x86::_mm512_permutex2var_epi16(even, low, odd));
                    x86::_mm512_store_si512(at.add(16).cast(), x86::_mm512_permutex2var_epi16(even, high, odd));
                }
            }
        }
    }

    /// Writes one strip of rows: the sums lie as four tiles of 16 columns, two in each half of the block.
    fn write(&self, strip: usize, column: usize, blocks: usize, sums: &Sums) {
        for row in 0..16.min(self.rank - strip * 16) {
            for block in 0..blocks {
                let from = &sums.0[(block * 16 + row) * BLOCK..][..BLOCK];
                let at = (strip * 16 + row) * self.n + (column + block) * BLOCK;
                // SAFETY: inside the result; these columns are this range's alone.
                unsafe { std::slice::from_raw_parts_mut(self.target.get().add(at), BLOCK) }.copy_from_slice(from);
            }
        }
    }
}

/// Columns 0..16 of two rows, side by side; then columns 16..32.
const LOW: [u16; 32] = woven_order(0);
const HIGH: [u16; 32] = woven_order(16);

const fn woven_order(first: u16) -> [u16; 32] {
    let mut order = [0; 32];
    let mut lane = 0;
    while lane < 16 {
        order[2 * lane] = first + lane as u16;
        order[2 * lane + 1] = 32 + first + lane as u16;
        lane += 1;
    }
    order
}

/// L `[t, r]` as row tiles of Lᵀ: `[r/16][t/32]` tiles of 16 rows of 32 tokens, filled up with zeros.
fn turned(source: &[bf16], t: usize, rank: usize) -> Vec<Line> {
    let steps = t.div_ceil(32);
    let mut lines = vec![Line::ZERO; rank.div_ceil(16) * steps * 16];
    let numbers = numbers_mut(&mut lines);
    for (token, row) in source.chunks_exact(rank).enumerate() {
        for (r, &value) in row.iter().enumerate() {
            let tile = (r / 16) * steps + token / 32;
            numbers[tile * 512 + (r % 16) * 32 + token % 32] = value;
        }
    }
    lines
}
