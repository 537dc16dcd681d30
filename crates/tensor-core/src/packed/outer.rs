//! Sums of outer products over tokens, `Lᵀ R`: the gradients of low-rank factors.
//!
//! Shapes: t tokens, r rank (few), n width (many); L `[t, r]`, R `[t, n]`. L is turned into row tiles once; R's rows are
//! woven in pairs on their way, 64 columns at a time.
#![allow(unsafe_code)]

use std::arch::x86_64 as x86;

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::matrix::{Line, SendPtr, numbers_mut};
use super::tiles::{self, BLOCK, Sums, Tiles};
use crate::{blob, parallel};

/// `Lᵀ R`: `[r, n]` f32 of bf16 `left` `[t, r]` and `right` `[t, n]`, on tiles where they fit, else by libtorch.
pub fn outer(left: &Tensor, right: &Tensor) -> Tensor {
    let (Ok((t, rank)), Ok((_, n))) = (left.size2(), right.size2()) else {
        return left.tr().matmul(right);
    };
    let on_tiles = right.kind() == Kind::BFloat16 && right.device() == Device::Cpu && n % 32 == 0 && tiles::available();
    if !on_tiles {
        return super::reference::outer(left, right);
    }
    let right = if right.stride()[1] == 1 {
        right.shallow_clone()
    } else {
        right.contiguous()
    };
    let (t, rank, n) = (t as usize, rank as usize, n as usize);
    let steps = t.div_ceil(32);
    let rows = turned(&left.contiguous(), t, rank);
    let result = Tensor::empty([rank as i64, n as i64], (Kind::Float, Device::Cpu));
    let sides = Sides {
        rows: &rows,
        right: SendPtr(right.data_ptr().cast()),
        stride: right.stride()[0] as usize,
        t,
        rank,
        n,
        target: SendPtr(blob::slice_mut::<f32>(&result).as_mut_ptr()),
    };
    parallel::for_each_range(n / BLOCK, 1, |range| {
        // SAFETY: the machine has tiles; each range writes its own columns.
        let tiles = unsafe { Tiles::set_up() };
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
                    let row = sides.rows[(strip * steps + step) * 16..].as_ptr().cast();
                    // SAFETY: one row tile, and the column tiles just woven.
                    unsafe { tiles.add_one_row(row, woven.as_ptr().cast(), pair) };
                }
                tiles.store(&mut sums);
                sides.write(strip, column, if pair { 2 } else { 1 }, &sums);
                column += if pair { 2 } else { 1 };
            }
        }
    });
    result
}

struct Sides<'a> {
    rows: &'a [Line],
    right: SendPtr<bf16>,
    stride: usize,
    t: usize,
    rank: usize,
    n: usize,
    target: SendPtr<f32>,
}

// SAFETY: `target` is written in disjoint columns; the rest is read.
unsafe impl Sync for Sides<'_> {}

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
fn turned(left: &Tensor, t: usize, rank: usize) -> Vec<Line> {
    let source = blob::slice::<bf16>(left);
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
