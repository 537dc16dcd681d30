//! The product itself: blocks of 32 × 32, walked over the operands; without tile registers, in blocks of as many sums as
//! the vector registers hold.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use super::amx::block::{Block, multiply};
use super::{BLOCK, LANES, Number, TileLanes, Tiles};
#[cfg(target_arch = "x86_64")]
use crate::unit::Unit;

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

    /// All numbers, as they lie.
    pub fn numbers(self) -> &'a [T] {
        self.data
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
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "no tiles there"))]
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
    // In numbers that cannot wrap around: strides are the caller's.
    let reach = |steps: [(usize, usize); 2], last: usize| {
        let [(m, row), (k, step)] = steps.map(|(count, stride)| (count as u128 - 1, stride as u128));
        m * row + k * step + last as u128
    };
    assert!(
        a.data.len() as u128 >= reach([(m, a.row), (k / BLOCK, a.step)], BLOCK),
        "a short left operand"
    );
    assert!(
        b.data.len() as u128 >= reach([(n / LANES, b.depth), (1, 0)], 0) * LANES as u128 + (k * LANES) as u128,
        "a short right operand"
    );
    assert!(c.len() as u128 >= reach([(m, c_row), (1, 0)], n), "a short result");
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
                if T::DEPTH == 2 && tiles.unit() == Unit::Amx {
                    multiply(Block {
                        a: left.cast(),
                        a_row: 2 * a.row,
                        a_step: 2 * a.step,
                        b: right.map(<*const T>::cast),
                        steps: k / BLOCK,
                        c: out,
                        c_row: 4 * c_row,
                        accumulate,
                    });
                    continue;
                }
                let sizes = (a.row, a.step, k);
                if L::REGISTERS >= 32 {
                    for eight in (0..BLOCK).step_by(8) {
                        let out = (out.add(eight * c_row), c_row);
                        block::<L, T, 8, 2>(left.add(eight * a.row), sizes, right, out, accumulate);
                    }
                } else {
                    for four in (0..BLOCK).step_by(4) {
                        let left = left.add(four * a.row);
                        for (panel, right) in right.into_iter().enumerate() {
                            let out = (out.add(four * c_row + panel * LANES), c_row);
                            block::<L, T, 4, 1>(left, sizes, [right], out, accumulate);
                        }
                    }
                }
            }
        }
    }
}

/// `M` rows and `N` panels of a product; `sizes` are the numbers between rows and between steps of A, and k.
///
/// # Safety
/// The operands and C are as long as that takes.
#[inline(always)]
unsafe fn block<L: TileLanes, T: Number, const M: usize, const N: usize>(
    a: *const T,
    (row, step, k): (usize, usize, usize),
    b: [*const T; N],
    (c, c_row): (*mut f32, usize),
    accumulate: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[L::splat(0.0); N]; M];
        if accumulate {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(&*c.add(i * c_row + j * LANES).cast());
                }
            }
        }
        for at in 0..k / BLOCK {
            let mut b = b;
            for b in &mut b {
                *b = b.add(at * BLOCK * LANES);
            }
            add_rows(&mut sums, a.add(at * step), row, b, BLOCK);
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                sum.store(&mut *c.add(i * c_row + j * LANES).cast());
            }
        }
    }
}

/// Adds the products of `M` rows of A, `row` numbers apart, and `N` panels, both `k` long, to sums that stay in
/// registers.
///
/// # Safety
/// The operands are as long as that takes.
#[inline(always)]
pub unsafe fn add_rows<L: TileLanes, T: Number, const M: usize, const N: usize>(
    sums: &mut [[L; N]; M],
    a: *const T,
    row: usize,
    b: [*const T; N],
    k: usize,
) {
    for at in (0..k).step_by(T::DEPTH) {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (sum, b) in sums.iter_mut().zip(b) {
                // SAFETY: the caller's.
                *sum = unsafe { T::add(*sum, a.add(i * row + at), b.add(at * LANES)) };
            }
        }
    }
}
