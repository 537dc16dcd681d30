//! Products of whole matrices, over views of `ndarray` and on rayon's threads.
#![allow(unsafe_code)]
#![expect(clippy::needless_pass_by_value, reason = "a view is a reference already")]

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::tile::pack::{self, Rows as _, Strided};
use crate::tile::scratch::{self, Need, Plain};
use crate::tile::{
    BLOCK, LANES, Left, Number, Right, TileKernel, TileLanes, Tiles, add_rows, dispatch, product, whole,
};
use crate::unit::Unit;
use crate::vector::Scalar as _;

/// Rows of C that a task computes.
const ROWS: usize = 128;
/// Columns of C that a task computes: its sums are 128 KiB.
const COLUMNS: usize = 256;
/// Numbers of k that a task takes at a time, so that its part of A stays in the second-level cache.
const DEPTH: usize = 512;
/// So few rows are multiplied one by one instead of being padded to a block.
const FEW_ROWS: usize = 8;

/// `A [m, k] · B [k, n]`, sums in f32; the views may have any strides.
///
/// A matrix that is the right operand of several products is better [`Packed`] once.
///
/// # Panics
/// If A has another number of columns than B has rows.
pub fn multiply<T: Number + Plain>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Array2<f32> {
    Packed::new(b).multiply(a)
}

/// B `[k, n]` made ready to be the right operand of products: panels of sixteen columns, padded with zeros.
#[derive(Clone, Debug)]
pub struct Packed<T> {
    panels: Vec<T>,
    k: usize,
    n: usize,
}

impl<T: Number + Plain> Packed<T> {
    /// Packs `b`; a view whose rows or whose columns are contiguous is read where it lies.
    pub fn new(b: ArrayView2<'_, T>) -> Self {
        let (k, n) = b.dim();
        let mut panels = vec![T::default(); whole(k) * whole(n)];
        let unit = Unit::best();
        with_operand(b, |operand| {
            let panels = panels.par_chunks_exact_mut((whole(k) * LANES).max(1)).enumerate();
            panels.for_each(|(panel, to)| unit.run(|| dispatch(Pack { operand, panel, to })));
        });
        Self { panels, k, n }
    }

    /// k, the rows of B.
    pub fn k(&self) -> usize {
        self.k
    }

    /// n, the columns of B.
    pub fn n(&self) -> usize {
        self.n
    }

    /// `A [m, k] · B`.
    ///
    /// # Panics
    /// If A has another number of columns than B has rows.
    pub fn multiply(&self, a: ArrayView2<'_, T>) -> Array2<f32> {
        let mut c = Array2::zeros((a.nrows(), self.n));
        self.multiply_into(a, c.view_mut(), false);
        c
    }

    /// `C [m, n] = A [m, k] · B`, added to C if `accumulate`.
    ///
    /// The result does not depend on the number of threads.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn multiply_into(&self, a: ArrayView2<'_, T>, c: ArrayViewMut2<'_, f32>, accumulate: bool) {
        let (m, k) = a.dim();
        assert_eq!(k, self.k, "A has {k} columns, and B has {} rows", self.k);
        assert_eq!(c.dim(), (m, self.n), "C has the rows of A and the columns of B");
        let unit = Unit::best();
        with_operand(a, |a| {
            blocks(c).into_par_iter().for_each(|block| {
                unit.run(|| {
                    dispatch(Task {
                        a,
                        b: self,
                        block,
                        accumulate,
                    });
                });
            });
        });
    }
}

/// A part of C, and where it begins.
struct CBlock<'a> {
    row: usize,
    column: usize,
    c: ArrayViewMut2<'a, f32>,
}

/// C cut into the tasks' parts.
fn blocks(c: ArrayViewMut2<'_, f32>) -> Vec<CBlock<'_>> {
    let mut blocks = Vec::new();
    let (mut row, mut rest) = (0, c);
    while rest.nrows() > 0 {
        let len = rest.nrows().min(ROWS);
        let (mut rows, below) = rest.split_at(Axis(0), len);
        let mut column = 0;
        while rows.ncols() > 0 {
            let len = rows.ncols().min(COLUMNS);
            let (c, right) = rows.split_at(Axis(1), len);
            blocks.push(CBlock { row, column, c });
            (column, rows) = (column + len, right);
        }
        (row, rest) = (row + len, below);
    }
    blocks
}

/// The view, if the numbers of a row lie side by side.
fn strided<'a, T>(view: &'a ArrayView2<'a, T>) -> Option<Strided<'a, T>> {
    let (len, width) = view.dim();
    if len == 0 || width == 0 {
        let (data, stride) = (&[][..], 0);
        return Some(Strided {
            data,
            stride,
            len,
            width,
        });
    }
    let stride = usize::try_from(view.strides()[0]).ok()?;
    if width > 1 && view.strides()[1] != 1 {
        return None;
    }
    // SAFETY: the view covers its last row, and with strides that are not negative nothing lies before its first number.
    let data = unsafe { std::slice::from_raw_parts(view.as_ptr(), (len - 1) * stride + width) };
    Some(Strided {
        data,
        stride,
        len,
        width,
    })
}

/// A matrix as it lies in memory.
#[derive(Clone, Copy)]
enum Operand<'a, T> {
    Plain(Strided<'a, T>),
    /// Its transpose.
    Transposed(Strided<'a, T>),
}

/// Calls `work` with `view`, or with a copy of it where neither its rows nor its columns are contiguous.
fn with_operand<T: Copy>(view: ArrayView2<'_, T>, work: impl FnOnce(Operand<'_, T>)) {
    if let Some(rows) = strided(&view) {
        return work(Operand::Plain(rows));
    }
    let transposed = view.t();
    if let Some(columns) = strided(&transposed) {
        return work(Operand::Transposed(columns));
    }
    let copy = view.as_standard_layout();
    let copy = copy.view();
    work(Operand::Plain(strided(&copy).expect("rows side by side")));
}

struct Pack<'a, T> {
    operand: Operand<'a, T>,
    panel: usize,
    to: &'a mut [T],
}

impl<T: Number> TileKernel for Pack<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, _: &Tiles) {
        match self.operand {
            Operand::Plain(rows) => pack::right_panel::<L, T>(rows, self.panel, self.to),
            Operand::Transposed(columns) => pack::right_transposed_panel::<L, T>(columns, self.panel, self.to),
        }
    }
}

struct Task<'a, T> {
    a: Operand<'a, T>,
    b: &'a Packed<T>,
    block: CBlock<'a>,
    accumulate: bool,
}

impl<T: Number + Plain> TileKernel for Task<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, tiles: &Tiles) {
        let Self {
            a,
            b,
            block: CBlock { row, column, mut c },
            accumulate,
        } = self;
        let (rows, columns) = c.dim();
        let (m, n, depth) = (whole(rows), whole(columns), whole(b.k).min(DEPTH));
        let mut held = scratch::hold(Need::default().and::<T>(m * depth).and::<f32>(m * n));
        let mut memory = held.scratch();
        let (left, sums) = (memory.take::<T>(m * depth), memory.take::<f32>(m * n));
        sums.fill(0.0);
        let panels = Right::panels(&b.panels, whole(b.k)).from_column(column);
        for at in (0..b.k).step_by(DEPTH) {
            let k = at..b.k.min(at + DEPTH);
            let depth = whole(k.len());
            let left = match a {
                Operand::Plain(a) => {
                    pack::left(a.rows(row..row + rows).columns(k), &mut *left);
                    Left::rows(left, depth)
                }
                Operand::Transposed(a) if rows > FEW_ROWS => {
                    pack::left_transposed::<L, T>(a.rows(k), row, m, &mut *left);
                    Left::blocks(left, m)
                }
                Operand::Transposed(a) => {
                    for (i, to) in left[..rows * depth].chunks_exact_mut(depth).enumerate() {
                        to.fill(T::default());
                        to.iter_mut().zip(k.clone()).for_each(|(to, k)| *to = a.row(k)[row + i]);
                    }
                    Left::rows(left, depth)
                }
            };
            if rows > FEW_ROWS {
                product::<L, T>(tiles, [m, n, depth], left, panels.from_row(at), (&mut *sums, n), true);
            } else {
                few_rows::<L, T>(
                    left.numbers(),
                    depth,
                    &b.panels[column * whole(b.k)..],
                    (whole(b.k), at),
                    (&mut sums[..rows * n], n),
                );
            }
        }
        for (mut c, sums) in c.rows_mut().into_iter().zip(sums.chunks_exact(n)) {
            if accumulate {
                c.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
            } else {
                c.iter_mut().zip(sums).for_each(|(c, sum)| *c = *sum);
            }
        }
    }
}

/// Adds to each row of sums the product of a row of `a`, `depth` numbers long, and the panels' rows from `at` on.
#[inline(always)]
fn few_rows<L: TileLanes, T: Number>(
    a: &[T],
    depth: usize,
    panels: &[T],
    (panel_depth, at): (usize, usize),
    (sums, n): (&mut [f32], usize),
) {
    for (a, sums) in a.chunks_exact(depth).zip(sums.chunks_exact_mut(n)) {
        for (pair, sums) in sums.chunks_exact_mut(BLOCK).enumerate() {
            let panel = |i: usize| &panels[((2 * pair + i) * panel_depth + at) * LANES..][..depth * LANES];
            let (first, second) = sums.split_at_mut(LANES);
            let mut both = [[f32::read::<L>(first, 0), f32::read::<L>(second, 0)]];
            // SAFETY: a row of `depth` numbers, and two panels as deep.
            unsafe { add_rows::<L, T, 1, 2>(&mut both, a.as_ptr(), 0, [panel(0).as_ptr(), panel(1).as_ptr()], depth) };
            f32::write(first, 0, both[0][0]);
            f32::write(second, 0, both[0][1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use ndarray::{ShapeBuilder as _, s};

    use super::*;
    use crate::unit::on_each;

    fn numbers<T: Number>((rows, columns): (usize, usize), seed: u32, fortran: bool) -> Array2<T> {
        let mut state = seed;
        let numbers = (0..rows * columns).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::from_f32((state >> 8) as f32 / 8_388_608.0 - 1.0)
        });
        Array2::from_shape_vec((rows, columns).set_f(fortran), numbers.collect()).unwrap()
    }

    fn in_f64<T: Number>(a: ArrayView2<T>, b: ArrayView2<T>) -> Array2<f64> {
        let wide = |x: ArrayView2<T>| x.mapv(|x| f64::from(x.to_f32()));
        wide(a).dot(&wide(b))
    }

    fn check<T: Number + Plain>([m, n, k]: [usize; 3], fortran: [bool; 2]) {
        let (a, b) = (numbers::<T>((m, k), 3, fortran[0]), numbers::<T>((k, n), 5, fortran[1]));
        let want = in_f64(a.view(), b.view());
        on_each(|unit| {
            let packed = Packed::new(b.view());
            let mut c = Array2::from_elem((m, n), 0.5);
            packed.multiply_into(a.view(), c.view_mut(), true);
            let got = packed.multiply(a.view());
            // k sums of numbers of at most k.
            let tolerance = (k * k) as f64 * f64::from(f32::EPSILON) / 8.0 + 1e-6;
            for ((at, want), got) in want.indexed_iter().zip(&got) {
                assert!(
                    (f64::from(*got) - want).abs() <= tolerance,
                    "{unit} {at:?}: {got}, not {want}"
                );
                assert!(
                    (f64::from(c[at]) - 0.5 - want).abs() <= tolerance,
                    "{unit} {at:?}: added"
                );
            }
        });
    }

    #[test]
    fn products_of_any_shape_and_order_equal_those_in_f64() {
        for shape in [
            [1, 1, 1],
            [7, 300, 600],
            [8, 16, 513],
            [9, 33, 65],
            [130, 257, 40],
            [129, 256, 1030],
        ] {
            for fortran in [[false, false], [false, true], [true, false], [true, true]] {
                check::<f32>(shape, fortran);
                check::<bf16>(shape, fortran);
            }
        }
    }

    #[test]
    fn views_with_steps_and_backwards_are_read_as_they_say() {
        let (a, b) = (numbers::<f32>((40, 90), 1, false), numbers::<f32>((90, 80), 2, false));
        let (a, b) = (a.slice(s![..;3, ..;-2]), b.slice(s![..;2, 5..;2]));
        let (got, want) = (multiply(a, b), in_f64(a, b));
        for (got, want) in got.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < 1e-4, "{got}, not {want}");
        }
        let column = numbers::<f32>((50, 7), 3, false);
        let got = multiply(column.slice(s![.., 3..4]), column.slice(s![3..4, ..]));
        let want = in_f64(column.slice(s![.., 3..4]), column.slice(s![3..4, ..]));
        assert!(
            got.iter()
                .zip(&want)
                .all(|(got, want)| (f64::from(*got) - want).abs() < 1e-6)
        );
    }

    #[test]
    fn an_empty_sum_is_zero_and_an_empty_matrix_is_empty() {
        let none = Array2::<f32>::zeros((3, 0));
        assert_eq!(multiply(none.view(), none.t()), Array2::<f32>::zeros((3, 3)));
        assert_eq!(multiply(none.t(), none.view()), Array2::<f32>::zeros((0, 0)));
    }

    #[test]
    fn rows_give_the_same_bits_alone_and_among_others() {
        let (a, b) = (
            numbers::<bf16>((200, 700), 1, false),
            numbers::<bf16>((700, 96), 2, false),
        );
        on_each(|unit| {
            let packed = Packed::new(b.view());
            let all = packed.multiply(a.view());
            for rows in [20, 100, 160] {
                let some = packed.multiply(a.slice(s![..rows, ..]));
                assert_eq!(some, all.slice(s![..rows, ..]), "{unit}");
            }
        });
    }

    #[test]
    #[should_panic(expected = "A has 2 columns, and B has 3 rows")]
    fn shapes_that_do_not_fit_are_refused() {
        multiply(Array2::<f32>::zeros((4, 2)).view(), Array2::<f32>::zeros((3, 5)).view());
    }
}
