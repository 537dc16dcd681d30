//! Operands of [`super::product`] from rows in memory, padded with zeros to whole blocks.

use std::ops::Range;

use super::{BLOCK, LANES, Number, TileLanes, whole};

/// A matrix `[len, width]` whose rows lie anywhere.
#[expect(clippy::len_without_is_empty, reason = "nobody asks")]
pub trait Rows<T>: Copy {
    /// How many rows.
    fn len(&self) -> usize;
    /// Numbers of a row.
    fn width(&self) -> usize;
    /// One row, of `width` numbers.
    fn row(&self, i: usize) -> &[T];
}

/// Rows one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    /// All numbers.
    pub data: &'a [T],
    /// Of a row.
    pub width: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `data` in rows of `width` numbers.
    pub fn new(data: &'a [T], width: usize) -> Self {
        Self { data, width }
    }

    /// Some of the rows.
    #[must_use]
    #[inline(always)]
    pub fn part(self, rows: Range<usize>) -> Self {
        Self::new(&self.data[rows.start * self.width..rows.end * self.width], self.width)
    }
}

impl<T: Copy> Rows<T> for Matrix<'_, T> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.data.len() / self.width
    }
    #[inline(always)]
    fn width(&self) -> usize {
        self.width
    }
    #[inline(always)]
    fn row(&self, i: usize) -> &[T] {
        &self.data[i * self.width..][..self.width]
    }
}

/// Rows at a distance from each other, which may lie closer or farther apart than they are wide.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, T> {
    /// All numbers from the first row's first to the last row's last.
    pub data: &'a [T],
    /// Numbers from the begin of a row to that of the next.
    pub stride: usize,
    /// How many rows.
    pub len: usize,
    /// Numbers of a row.
    pub width: usize,
}

impl<T> Strided<'_, T> {
    /// Some of the rows.
    #[must_use]
    #[inline(always)]
    pub fn rows(self, rows: Range<usize>) -> Self {
        Self {
            data: &self.data[rows.start * self.stride..],
            len: rows.len(),
            ..self
        }
    }

    /// Some of the columns.
    #[must_use]
    #[inline(always)]
    pub fn columns(self, columns: Range<usize>) -> Self {
        Self {
            data: &self.data[columns.start..],
            width: columns.len(),
            ..self
        }
    }
}

impl<T: Copy> Rows<T> for Strided<'_, T> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn width(&self) -> usize {
        self.width
    }
    #[inline(always)]
    fn row(&self, i: usize) -> &[T] {
        &self.data[i * self.stride..][..self.width]
    }
}

/// Numbers from `at` on of row `i`, zeros where there are none.
#[inline(always)]
fn read<T: Number, R: Rows<T>, const N: usize>(rows: R, i: usize, at: usize) -> [T; N] {
    if i >= rows.len() || at >= rows.width() {
        return [T::default(); N];
    }
    let row = &rows.row(i)[at..];
    match row.first_chunk::<N>() {
        Some(all) => *all,
        None => padded(row),
    }
}

#[cold]
#[inline(never)]
fn padded<T: Copy + Default, const N: usize>(row: &[T]) -> [T; N] {
    let mut all = [T::default(); N];
    all[..row.len()].copy_from_slice(row);
    all
}

/// Rows copied to `[whole(len), whole(width)]`: a left operand.
#[inline(always)]
pub fn left<T: Number>(rows: impl Rows<T>, to: &mut [T]) {
    let (len, width, padded) = (rows.len(), rows.width(), whole(rows.width()));
    let (used, rest) = to[..whole(len) * padded].split_at_mut(len * padded);
    for (i, to) in used.chunks_exact_mut(padded).enumerate() {
        to[..width].copy_from_slice(rows.row(i));
        to[width..].fill(T::default());
    }
    rest.fill(T::default());
}

/// The transpose `[whole(width), whole(len)]` of the columns `columns..` as a left operand in blocks of 32 rows:
/// `[whole(len) / 32, m, 32]`, m columns from `first` on.
#[inline(always)]
pub fn left_transposed<L: TileLanes, T: Number>(rows: impl Rows<T>, first: usize, m: usize, to: &mut [T]) {
    for (block, to) in to[..whole(rows.len()) * m].chunks_exact_mut(m * BLOCK).enumerate() {
        for column in (0..m).step_by(LANES) {
            // Sixteen columns of as many rows as one vector holds.
            for part in (0..BLOCK).step_by(T::PER_VECTOR) {
                let mut woven = [L::splat(0.0); LANES];
                for (i, woven) in woven.iter_mut().enumerate() {
                    let row = block * BLOCK + part + i * T::DEPTH;
                    let even = read(rows, row, first + column);
                    let odd = if T::DEPTH == 2 {
                        read(rows, row + 1, first + column)
                    } else {
                        even
                    };
                    *woven = T::weave([&even, &odd]);
                }
                for (i, bits) in L::transpose(woven).into_iter().enumerate() {
                    T::store_bits(bits, &mut to[(column + i) * BLOCK + part..]);
                }
            }
        }
    }
}

/// The rows as a right operand `[whole(len), whole(width)]`: panels `whole(len)` deep.
#[inline(always)]
pub fn right<L: TileLanes, T: Number>(rows: impl Rows<T>, to: &mut [T]) {
    let (depth, columns) = (whole(rows.len()), whole(rows.width()));
    for (panel, to) in to[..depth * columns].chunks_exact_mut(depth * LANES).enumerate() {
        right_panel::<L, T>(rows, panel, to);
    }
}

/// One panel of [`right`]: the rows' columns from `16 panel` on.
#[inline(always)]
pub fn right_panel<L: TileLanes, T: Number>(rows: impl Rows<T>, panel: usize, to: &mut [T]) {
    for (i, to) in to.chunks_exact_mut(T::PER_VECTOR).enumerate() {
        let even = read(rows, i * T::DEPTH, panel * LANES);
        let odd = if T::DEPTH == 2 {
            read(rows, i * T::DEPTH + 1, panel * LANES)
        } else {
            even
        };
        T::store_bits(T::weave::<L>([&even, &odd]), to);
    }
}

/// The transpose of the rows as a right operand `[whole(width), whole(len)]`: panels `whole(width)` deep.
#[inline(always)]
pub fn right_transposed<L: TileLanes, T: Number>(rows: impl Rows<T>, to: &mut [T]) {
    let (depth, columns) = (whole(rows.width()), whole(rows.len()));
    for (panel, to) in to[..depth * columns].chunks_exact_mut(depth * LANES).enumerate() {
        right_transposed_panel::<L, T>(rows, panel, to);
    }
}

/// One panel of [`right_transposed`]: the rows from `16 panel` on.
#[inline(always)]
pub fn right_transposed_panel<L: TileLanes, T: Number>(rows: impl Rows<T>, panel: usize, to: &mut [T]) {
    for at in (0..to.len() / LANES).step_by(T::PER_VECTOR) {
        let mut bits = [L::splat(0.0); LANES];
        for (i, bits) in bits.iter_mut().enumerate() {
            *bits = vector(rows, panel * LANES + i, at);
        }
        for (i, bits) in L::transpose(bits).into_iter().enumerate() {
            T::store_bits(bits, &mut to[at * LANES + i * T::PER_VECTOR..]);
        }
    }
}

/// One vector's numbers from `at` on of row `i`.
#[inline(always)]
fn vector<L: TileLanes, T: Number>(rows: impl Rows<T>, i: usize, at: usize) -> L {
    if T::DEPTH == 2 {
        T::bits(&read::<T, _, { 2 * LANES }>(rows, i, at))
    } else {
        T::bits(&read::<T, _, LANES>(rows, i, at))
    }
}
