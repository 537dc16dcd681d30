//! The product itself: blocks of 32 × 32, walked over the operands.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use super::amx::block::{self, Block};
use super::{BLOCK, LANES, Number, TileLanes, Tiles};

/// A left operand: rows of k numbers.
#[derive(Clone, Copy)]
pub struct Left<'a, T> {
    data: &'a [T],
    row: usize,
    step: usize,
}

impl<'a, T> Left<'a, T> {
    /// Plain rows, `row` numbers apart.
    pub fn rows(data: &'a [T], row: usize) -> Self {
        Self { data, row, step: BLOCK }
    }

    /// Blocks of 32 columns one after the other, each `[m, 32]`, as [`super::pack::left_transposed`] makes them.
    pub fn blocks(data: &'a [T], m: usize) -> Self {
        Self {
            data,
            row: BLOCK,
            step: m * BLOCK,
        }
    }
}

/// A right operand: panels of 16 columns, each `depth` rows deep.
#[derive(Clone, Copy)]
pub struct Right<'a, T> {
    data: &'a [T],
    depth: usize,
}

impl<'a, T> Right<'a, T> {
    /// Panels as [`super::pack`] makes them.
    pub fn panels(data: &'a [T], depth: usize) -> Self {
        Self { data, depth }
    }

    /// The panels from column `n` on.
    #[must_use]
    pub fn from_column(self, n: usize) -> Self {
        Self {
            data: &self.data[n * self.depth..],
            depth: self.depth,
        }
    }

    /// The rows from `k` on.
    #[must_use]
    pub fn from_row(self, k: usize) -> Self {
        Self {
            data: &self.data[k * LANES..],
            depth: self.depth,
        }
    }
}

/// `C [m, n] = A [m, k] · B [k, n]`, added to C if `accumulate`; C's rows are `c_row` apart.
///
/// # Panics
/// If a side is no multiple of [`BLOCK`], or an operand is too short.
#[inline(always)]
pub fn product<L: TileLanes, T: Number>(
    tiles: &Tiles,
    [m, n, k]: [usize; 3],
    a: Left<T>,
    b: Right<T>,
    c: (&mut [f32], usize),
    accumulate: bool,
) {
    let (c, c_row) = c;
    if m == 0 || n == 0 || k == 0 {
        assert!(accumulate || m == 0 || n == 0, "an empty sum is not written");
        return;
    }
    assert!(
        m % BLOCK == 0 && n % BLOCK == 0 && k % BLOCK == 0,
        "a product of {m} × {n} × {k} is not whole blocks"
    );
    assert!(
        a.data.len() >= (m - 1) * a.row + (k / BLOCK - 1) * a.step + BLOCK,
        "a short left operand"
    );
    assert!(
        b.data.len() >= (n / LANES - 1) * b.depth * LANES + k * LANES,
        "a short right operand"
    );
    assert!(c.len() >= (m - 1) * c_row + n, "a short result");
    let panel = b.depth * LANES;
    for column in (0..n).step_by(BLOCK) {
        for row in (0..m).step_by(BLOCK) {
            // SAFETY: the lengths were checked above; tiles are set up where the unit has them.
            unsafe {
                let left = a.data.as_ptr().add(row * a.row);
                let first = b.data.as_ptr().add(column / LANES * panel);
                let right = [first, first.add(panel)];
                let out = c.as_mut_ptr().add(row * c_row + column);
                #[cfg(target_arch = "x86_64")]
                if let Some((left, right)) = T::for_tiles(tiles, left, right) {
                    block::multiply(Block {
                        a: left,
                        a_row: 2 * a.row,
                        a_step: 2 * a.step,
                        b: right,
                        steps: k / BLOCK,
                        c: out,
                        c_row: 4 * c_row,
                        accumulate,
                    });
                    continue;
                }
                for eight in (0..BLOCK).step_by(8) {
                    let left = left.add(eight * a.row);
                    eight_rows::<L, T>(
                        left,
                        (a.row, a.step),
                        right,
                        k,
                        (out.add(eight * c_row), c_row),
                        accumulate,
                    );
                }
            }
        }
    }
}

/// Eight rows and two panels: sixteen sums stay in registers along k.
#[inline(always)]
unsafe fn eight_rows<L: TileLanes, T: Number>(
    a: *const T,
    (row, step): (usize, usize),
    b: [*const T; 2],
    k: usize,
    (c, c_row): (*mut f32, usize),
    accumulate: bool,
) {
    // SAFETY: `product` checked the operands' lengths.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; 8];
        if accumulate {
            for (i, pair) in sums.iter_mut().enumerate() {
                for (j, sum) in pair.iter_mut().enumerate() {
                    *sum = L::load(&*c.add(i * c_row + j * LANES).cast());
                }
            }
        }
        for block in 0..k / BLOCK {
            let a = a.add(block * step);
            for at in (0..BLOCK).step_by(T::DEPTH) {
                let from = (block * BLOCK + at) * LANES;
                for (i, pair) in sums.iter_mut().enumerate() {
                    let a = a.add(i * row + at);
                    pair[0] = T::add(pair[0], a, b[0].add(from));
                    pair[1] = T::add(pair[1], a, b[1].add(from));
                }
            }
        }
        for (i, pair) in sums.into_iter().enumerate() {
            for (j, sum) in pair.into_iter().enumerate() {
                sum.store(&mut *c.add(i * c_row + j * LANES).cast());
            }
        }
    }
}
