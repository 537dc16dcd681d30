//! The product on tiles: rows are copied into row tiles a few hundred at a time, columns stream by.
#![allow(unsafe_code)]

use std::arch::x86_64 as x86;
use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::TILE_BYTES;
use crate::packed::matrix::{Line, numbers_mut};
use crate::packed::product::{PackedLowRank, Part, Sides};
use crate::parallel;
use crate::tile::{BLOCK, Sums, TileSums};

/// Bytes of row tiles that a thread holds at a time: a part of its second-level cache.
const ROW_BYTES: usize = 320 << 10;

/// Computes all blocks of a product.
pub(crate) fn product(sides: &Sides) {
    let row_blocks = sides.m.div_ceil(BLOCK);
    let threads = parallel::num_threads();
    // SAFETY: the best unit is AMX, so the machine has tiles; ranges of rows or of columns are disjoint.
    if row_blocks >= 2 * threads {
        parallel::for_each_range(row_blocks, 1, |range| unsafe {
            sides.run(range, 0..sides.n / BLOCK, true);
        });
    } else {
        parallel::for_each_range(sides.n / BLOCK, 1, |range| {
            let first = range.start == 0;
            unsafe { sides.run(0..row_blocks, range, first) }
        });
    }
}

impl Part<'_> {
    /// Row tiles of one block of 32 rows, in steps along k; the low-rank steps follow.
    fn steps(&self) -> (usize, usize) {
        (
            self.matrix.steps(),
            self.low_rank.as_ref().map_or(0, |low_rank| low_rank.outer.steps()),
        )
    }
}

thread_local! {
    static ROWS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Sides<'_> {
    /// Blocks `rows` × `columns` (of 32 each); `keep` says that this call writes the low-rank results.
    ///
    /// # Safety
    /// The machine has tiles, and no other call writes the same blocks.
    unsafe fn run(&self, rows: Range<usize>, columns: Range<usize>, keep: bool) {
        // Lines of 32 numbers for a block of 32 rows: two row tiles a step.
        let block_lines: usize = self
            .parts
            .iter()
            .map(|part| (part.steps().0 + part.steps().1) * 32)
            .sum();
        let held = (ROW_BYTES / (block_lines * 64)).clamp(1, rows.len().max(1));
        ROWS.with_borrow_mut(|lines| {
            if lines.len() < held * block_lines {
                lines.resize(held * block_lines, Line::ZERO);
            }
            let tiles = TileSums::set_up();
            let mut sums = Sums([0.0; BLOCK * BLOCK]);
            for first in rows.clone().step_by(held) {
                let chunk = first..rows.end.min(first + held);
                for (block, lines) in chunk.clone().zip(lines.chunks_exact_mut(block_lines)) {
                    self.read_rows(block, lines, &tiles, &mut sums, keep);
                }
                for column in columns.clone() {
                    for (block, lines) in chunk.clone().zip(lines.chunks_exact(block_lines)) {
                        tiles.clear();
                        let mut at = 0;
                        for part in self.parts {
                            let (steps, low_steps) = part.steps();
                            for (matrix, steps) in [
                                (Some(part.matrix), steps),
                                (part.low_rank.as_ref().map(|l| &l.outer), low_steps),
                            ] {
                                let Some(matrix) = matrix else { continue };
                                let rows = [lines[at..].as_ptr().cast(), lines[at + steps * 16..].as_ptr().cast()];
                                // SAFETY: both row tiles and both strips have `steps` tiles.
                                unsafe {
                                    tiles.add(rows, [matrix.strip(2 * column), matrix.strip(2 * column + 1)], steps);
                                };
                                at += steps * 32;
                            }
                        }
                        tiles.store(&mut sums);
                        // SAFETY: AVX-512 comes with the tiles; this block is this call's.
                        unsafe { self.write(block, column, &sums) };
                    }
                }
            }
        });
    }

    /// Copies block `block` of every term's rows into tiles, and computes the low-rank inner products from them.
    fn read_rows(&self, block: usize, lines: &mut [Line], tiles: &TileSums, sums: &mut Sums, keep: bool) {
        let present = BLOCK.min(self.m - block * BLOCK);
        let mut at = 0;
        for part in self.parts {
            let (steps, low_steps) = part.steps();
            for half in 0..2 {
                let tile_rows = &mut lines[at + half * steps * 16..][..steps * 16];
                for row in 0..16 {
                    let here = half * 16 + row;
                    if here < present {
                        // SAFETY: row `block * 32 + here` of `x` has `steps * 32` numbers, and as many lines wait here.
                        unsafe {
                            let source = part.x.get().add((block * BLOCK + here) * part.stride);
                            copy_row(source, tile_rows.as_mut_ptr().add(row), steps);
                        }
                    } else {
                        tile_rows
                            .iter_mut()
                            .skip(row)
                            .step_by(16)
                            .for_each(|line| *line = Line::ZERO);
                    }
                }
            }
            let (rows, rest) = lines[at..].split_at_mut(steps * 32);
            if let Some(low_rank) = &part.low_rank {
                let inner = &mut rest[..low_steps * 32];
                low_rank.inner_rows(block, present, rows, inner, tiles, sums, steps, keep);
            }
            at += (steps + low_steps) * 32;
        }
    }

    /// # Safety
    /// AVX-512 with bf16; the block is written by this call alone.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
    unsafe fn write(&self, block: usize, column: usize, sums: &Sums) {
        let present = BLOCK.min(self.m - block * BLOCK);
        for row in 0..present {
            let at = (block * BLOCK + row) * self.n + column * BLOCK;
            // SAFETY: 32 sums a row, 32 numbers at `at`.
            unsafe {
                let mut low = x86::_mm512_load_ps(sums.0.as_ptr().add(row * BLOCK));
                let mut high = x86::_mm512_load_ps(sums.0.as_ptr().add(row * BLOCK + 16));
                if let Some(onto) = self.onto {
                    low = x86::_mm512_add_ps(low, widen(onto.as_ptr().add(at)));
                    high = x86::_mm512_add_ps(high, widen(onto.as_ptr().add(at + 16)));
                }
                let packed: x86::__m512i = std::mem::transmute(x86::_mm512_cvtne2ps_pbh(high, low));
                x86::_mm512_storeu_si512(self.y.get().add(at).cast(), packed);
            }
        }
    }
}

impl PackedLowRank {
    /// `s x Pᵀ` of one block: into row tiles for the second factor, and into the result.
    #[expect(clippy::too_many_arguments, reason = "one block's scratch, split by borrow")]
    fn inner_rows(
        &self,
        block: usize,
        present: usize,
        rows: &[Line],
        inner: &mut [Line],
        tiles: &TileSums,
        sums: &mut Sums,
        steps: usize,
        keep: bool,
    ) {
        inner.fill(Line::ZERO);
        let outer_steps = inner.len() / 32;
        let inner = numbers_mut(inner);
        for strip in 0..self.rank.div_ceil(16) {
            tiles.clear();
            // SAFETY: both row tiles and the strip have `steps` tiles.
            unsafe {
                tiles.add_narrow(
                    [rows.as_ptr().cast(), rows[steps * 16..].as_ptr().cast()],
                    self.inner.strip(strip),
                    steps,
                );
            };
            tiles.store(sums);
            let width = 16.min(self.rank - strip * 16);
            for row in 0..present {
                let values = &sums.0[row * BLOCK..][..width];
                let tile = (row / 16) * outer_steps + strip / 2;
                let in_tile = tile * (TILE_BYTES / 2) + (row % 16) * 32 + (strip % 2) * 16;
                for (lane, &value) in values.iter().enumerate() {
                    let value = bf16::from_f32(value * self.scale);
                    inner[in_tile + lane] = value;
                    if keep {
                        // SAFETY: row and lane lie inside the result; one call keeps each row.
                        unsafe {
                            *self
                                .target
                                .get()
                                .add((block * BLOCK + row) * self.rank + strip * 16 + lane) = value;
                        };
                    }
                }
            }
        }
    }
}

/// Copies `steps` lines of a row to every sixteenth line of its tiles.
///
/// # Safety
/// AVX-512; both sides are long enough. Rows need not be aligned.
#[target_feature(enable = "avx512f")]
unsafe fn copy_row(row: *const bf16, tiles: *mut Line, steps: usize) {
    for step in 0..steps {
        // SAFETY: the caller's.
        unsafe {
            x86::_mm512_store_si512(
                tiles.add(step * 16).cast(),
                x86::_mm512_loadu_si512(row.add(step * 32).cast()),
            );
        };
    }
}

/// 16 bf16 as f32.
///
/// # Safety
/// AVX-512, and 16 numbers at `from`.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn widen(from: *const bf16) -> x86::__m512 {
    // SAFETY: the caller's.
    unsafe {
        x86::_mm512_castsi512_ps(x86::_mm512_slli_epi32(
            x86::_mm512_cvtepu16_epi32(x86::_mm256_loadu_si256(from.cast())),
            16,
        ))
    }
}
