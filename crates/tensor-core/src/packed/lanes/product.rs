//! The product on lanes: a few hundred rows stay in a core's cache while the packed columns stream by.
#![allow(unsafe_code)]

use std::ops::Range;

use gemm::tile::Number as _;
use half::bf16;

use crate::packed::matrix::PackedMatrix;
use crate::packed::product::{PackedLowRank, Part, Sides};
use crate::parallel::{self, balance};
use crate::tile::scratch::{self, Need};
use crate::tile::{BLOCK, LANES, TileKernel, TileLanes, Tiles, add_rows, dispatch, prefetch};

/// Bytes of rows that a task reads again and again: a part of a second-level cache.
const ROW_BYTES: usize = 320 << 10;

/// Computes all blocks of a product.
pub(crate) fn product(sides: &Sides) {
    let cut = Cut::of(sides);
    balance(cut.rows.len() * cut.column_tasks, |mine| {
        dispatch(Run { sides, cut: &cut, mine });
    });
}

/// How a product is cut into tasks.
struct Cut {
    /// Rows of the tasks, the largest first.
    rows: Vec<Range<usize>>,
    /// Blocks of columns of a task.
    columns: usize,
    column_tasks: usize,
}

impl Cut {
    fn of(sides: &Sides) -> Self {
        let threads = parallel::num_threads();
        let blocks = sides.n / BLOCK;
        let row_bytes: usize = sides.parts.iter().map(|part| 2 * part.matrix.k()).sum();
        let most = (ROW_BYTES / row_bytes / 8 * 8).max(8);
        // Few rows: every thread reads them all, and a part of the weight.
        if sides.m < 32 * threads {
            let columns = blocks.div_ceil(threads).max(1);
            return Self {
                rows: match sides.m <= most {
                    true => std::iter::once(0..sides.m).collect(),
                    false => parallel::pieces(sides.m, most, most, 8),
                },
                columns,
                column_tasks: blocks.div_ceil(columns),
            };
        }
        Self {
            rows: parallel::pieces(sides.m, most, most.min(32), 8),
            columns: blocks,
            column_tasks: 1,
        }
    }
}

struct Run<'a> {
    sides: &'a Sides<'a>,
    cut: &'a Cut,
    mine: &'a mut dyn Iterator<Item = usize>,
}

impl TileKernel for Run<'_> {
    #[inline(always)]
    fn run<L: TileLanes>(self, _: &Tiles) {
        let Self { sides, cut, mine } = self;
        let inner_width: usize = sides.parts.iter().map(Part::inner_width).sum();
        let inner_len = cut.rows.first().map_or(0, ExactSizeIterator::len) * inner_width;
        let mut held = scratch::hold(Need::default().and::<bf16>(inner_len));
        let inner = held.scratch().take::<bf16>(inner_len);
        for task in mine {
            let (rows, column_task) = (&cut.rows[task / cut.column_tasks], task % cut.column_tasks);
            let columns = column_task * cut.columns..(sides.n / BLOCK).min((column_task + 1) * cut.columns);
            sides.task::<L>(rows.clone(), columns, column_task == 0, inner);
        }
    }
}

impl Part<'_> {
    /// Numbers of a row of `s x Pᵀ`, in whole pairs; none without a low-rank part.
    fn inner_width(&self) -> usize {
        self.low_rank
            .as_ref()
            .map_or(0, |low_rank| low_rank.rank.next_multiple_of(2))
    }
}

/// The panels of columns `16 (first + i)..` of a packed matrix.
#[inline(always)]
fn panels<const N: usize>(matrix: &PackedMatrix, first: usize) -> [*const bf16; N] {
    let mut panels = [std::ptr::null(); N];
    for (i, panel) in panels.iter_mut().enumerate() {
        *panel = matrix.strip(first + i).cast();
    }
    panels
}

impl Sides<'_> {
    /// Some rows and some blocks of columns; `keep` says that this task writes the rows' low-rank results.
    ///
    /// `inner` holds `s x Pᵀ` of the rows, part after part.
    #[inline(always)]
    fn task<L: TileLanes>(&self, rows: Range<usize>, columns: Range<usize>, keep: bool, inner: &mut [bf16]) {
        let mut at = 0;
        for part in self.parts {
            if let Some(low_rank) = &part.low_rank {
                let width = part.inner_width();
                let to = &mut inner[at..at + rows.len() * width];
                let mut row = 0;
                while row < rows.len() {
                    let left = rows.len() - row;
                    row += if left >= 16 && L::REGISTERS >= 32 {
                        low_rank.rows::<L, 16>(part, rows.start, row, keep, to);
                        16
                    } else if left >= 4 {
                        low_rank.rows::<L, 4>(part, rows.start, row, keep, to);
                        4
                    } else {
                        low_rank.rows::<L, 1>(part, rows.start, row, keep, to);
                        1
                    };
                }
                at += rows.len() * width;
            }
        }
        let streams = rows.len() < 32 && L::REGISTERS >= 32;
        for column in columns {
            let mut row = rows.start;
            // Few rows: the weight comes from memory, once and in its own order.
            while streams && rows.end - row >= 16 {
                self.block::<L, 16, 1>(row, rows.clone(), 2 * column, inner);
                self.block::<L, 16, 1>(row, rows.clone(), 2 * column + 1, inner);
                row += 16;
            }
            while row < rows.end {
                let left = rows.end - row;
                row += if left >= 8 && L::REGISTERS >= 32 {
                    self.block::<L, 8, 2>(row, rows.clone(), 2 * column, inner);
                    8
                } else if left >= 4 && L::REGISTERS >= 32 {
                    self.block::<L, 4, 2>(row, rows.clone(), 2 * column, inner);
                    4
                } else if left >= 4 {
                    self.block::<L, 4, 1>(row, rows.clone(), 2 * column, inner);
                    self.block::<L, 4, 1>(row, rows.clone(), 2 * column + 1, inner);
                    4
                } else {
                    self.block::<L, 1, 2>(row, rows.clone(), 2 * column, inner);
                    1
                };
            }
        }
    }

    /// `M` rows from `row` on by `N` panels from `panel` on, of the task's `rows`.
    #[inline(always)]
    fn block<L: TileLanes, const M: usize, const N: usize>(
        &self,
        row: usize,
        rows: Range<usize>,
        panel: usize,
        inner: &[bf16],
    ) {
        let mut sums = [[L::splat(0.0); N]; M];
        let mut at = 0;
        for part in self.parts {
            // SAFETY: `M` rows of `k` numbers, and panels as deep.
            unsafe {
                let x = part.x.get().add(row * part.stride);
                let panels = panels::<N>(part.matrix, panel);
                if N == 1 {
                    add_streamed(&mut sums, x, part.stride, panels[0], part.matrix.k());
                } else {
                    add_rows(&mut sums, x, part.stride, panels, part.matrix.k());
                }
            }
            if let Some(low_rank) = &part.low_rank {
                let width = part.inner_width();
                let from = &inner[at + (row - rows.start) * width..][..M * width];
                // SAFETY: `M` rows of `width` numbers, and panels that are no shorter.
                unsafe {
                    let panels = panels::<N>(&low_rank.outer, panel);
                    add_rows(&mut sums, from.as_ptr(), width, panels, width);
                }
                at += rows.len() * width;
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            let at = (row + i) * self.n + panel * LANES;
            // SAFETY: inside y, and this task's alone.
            let to = unsafe { std::slice::from_raw_parts_mut(self.y.get().add(at), N * LANES) };
            let (to, _) = to.as_chunks_mut::<LANES>();
            for (j, (to, mut sum)) in to.iter_mut().zip(sums).enumerate() {
                if let Some(onto) = self.onto {
                    let onto = onto[at + j * LANES..].first_chunk().expect("as large as y");
                    sum = sum + L::load_bf16(onto);
                }
                sum.store_bf16(to);
            }
        }
    }
}

/// How far ahead of its use a panel is asked for.
const AHEAD: usize = 2048;

/// As [`add_rows`] over one panel that no cache holds: it is asked for ahead, beyond its end too, where the next one
/// lies.
///
/// # Safety
/// The operands are as long as that takes.
#[inline(always)]
unsafe fn add_streamed<L: TileLanes, const M: usize, const N: usize>(
    sums: &mut [[L; N]; M],
    x: *const bf16,
    row: usize,
    panel: *const bf16,
    k: usize,
) {
    for at in (0..k).step_by(bf16::DEPTH) {
        // SAFETY: the caller's; what is asked for ahead is not read.
        unsafe {
            let line = panel.add(at * LANES);
            prefetch(line.wrapping_byte_add(AHEAD));
            for (i, sums) in sums.iter_mut().enumerate() {
                sums[0] = bf16::add(sums[0], x.add(i * row + at), line);
            }
        }
    }
}

impl PackedLowRank {
    /// `s x Pᵀ` of `M` rows from row `row` of the task on: for the second factor, and into the result.
    #[inline(always)]
    fn rows<L: TileLanes, const M: usize>(&self, part: &Part, first: usize, row: usize, keep: bool, to: &mut [bf16]) {
        let width = part.inner_width();
        let to = &mut to[row * width..][..M * width];
        for strip in 0..self.rank.div_ceil(LANES) {
            let mut sums = [[L::splat(0.0); 1]; M];
            // SAFETY: `M` rows of `k` numbers, and a panel as deep.
            unsafe {
                let x = part.x.get().add((first + row) * part.stride);
                add_rows(
                    &mut sums,
                    x,
                    part.stride,
                    panels::<1>(&self.inner, strip),
                    part.matrix.k(),
                );
            }
            for ([sum], to) in sums.into_iter().zip(to.chunks_exact_mut(width)) {
                let mut values = [bf16::ZERO; LANES];
                (sum * L::splat(self.scale)).store_bf16(&mut values);
                // An odd rank's last pair is filled up with the zero that stands in the packed factor.
                let to = &mut to[strip * LANES..];
                let len = to.len().min(LANES);
                to[..len].copy_from_slice(&values[..len]);
            }
        }
        if keep {
            for (i, from) in to.chunks_exact(width).enumerate() {
                // SAFETY: inside the result, and this task's rows alone.
                unsafe {
                    let target = self.target.get().add((first + row + i) * self.rank);
                    std::slice::from_raw_parts_mut(target, self.rank).copy_from_slice(&from[..self.rank]);
                }
            }
        }
    }
}
