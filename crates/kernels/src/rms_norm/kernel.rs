//! The norm's loops. Every row is read from memory once; its second reading comes from the nearest cache.

use tch::Tensor;
use tensor_core::gemm::vector::Scalar as _;
use tensor_core::parallel::{self, Shared};

use super::Gain;
use crate::rows::{Rows, grain};
use tensor_core::vector::{Kernel, LANES, Lanes, Scalar, dispatch};

/// What is added to the rows before they are normed, and where the sum goes (contiguous).
pub(super) struct Addition<'a, T> {
    pub(super) delta: &'a Tensor,
    pub(super) sum: &'a mut [T],
}

/// The gradients that come in, and where `dx` goes (contiguous).
pub(super) struct Gradients<'a, T> {
    pub(super) dy: &'a Tensor,
    pub(super) dsum: Option<&'a Tensor>,
    pub(super) dx: &'a mut [T],
}

/// Writes the normed rows to `y` and returns `1/√(mean x² + ε)` a row.
pub(super) fn forward<T: Scalar>(
    x: &Tensor,
    addition: Option<Addition<T>>,
    factors: &[f32],
    eps: f64,
    meaning: Gain,
    y: &mut [T],
) -> Vec<f32> {
    let x = Rows::<T>::of(x);
    let width = factors.len();
    let num_rows = y.len() / width.max(1);
    let (delta, sum) = addition.map_or((None, None), |a| {
        (Some(Rows::<T>::of(a.delta)), Some(Shared::new(a.sum)))
    });
    let mut inverse = vec![0.0f32; num_rows];
    let (y, shared) = (Shared::new(y), Shared::new(&mut inverse));
    parallel::for_each_range(num_rows, grain(width), |rows| {
        let numbers = rows.start * width..rows.end * width;
        // SAFETY: each range of rows is met once.
        #[allow(unsafe_code)]
        let (y, inverse, sum) = unsafe {
            let sum = sum.as_ref().map(|sum| sum.part(numbers.clone()));
            (y.part(numbers), shared.part(rows.clone()), sum)
        };
        let addition = delta.zip(sum);
        dispatch(Forward {
            x,
            first: rows.start,
            addition,
            factors,
            eps: eps as f32,
            meaning,
            y,
            inverse,
        });
    });
    inverse
}

struct Forward<'a, T> {
    x: Rows<'a, T>,
    first: usize,
    addition: Option<(Rows<'a, T>, &'a mut [T])>,
    factors: &'a [f32],
    eps: f32,
    meaning: Gain,
    y: &'a mut [T],
    inverse: &'a mut [f32],
}

impl<T: Scalar> Kernel for Forward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let width = self.factors.len();
        for (i, inverse) in self.inverse.iter_mut().enumerate() {
            let x = self.x.row(self.first + i);
            let y = &mut self.y[i * width..(i + 1) * width];
            *inverse = match &mut self.addition {
                Some((delta, sum)) => {
                    let sum = &mut sum[i * width..(i + 1) * width];
                    let squares = add::<L, T>(x, delta.row(self.first + i), sum);
                    normalise::<L, T>(sum, squares, self.factors, self.eps, self.meaning, y)
                }
                None => normalise::<L, T>(x, square_sum::<L, T>(x), self.factors, self.eps, self.meaning, y),
            };
        }
    }
}

#[inline(always)]
fn square_sum<L: Lanes, T: Scalar>(x: &[T]) -> f32 {
    let (mut even, mut odd) = (L::splat(0.0), L::splat(0.0));
    let mut at = 0;
    while at + 2 * LANES <= x.len() {
        let (a, b) = (T::read::<L>(x, at), T::read::<L>(x, at + LANES));
        even = a.mul_add(a, even);
        odd = b.mul_add(b, odd);
        at += 2 * LANES;
    }
    while at < x.len() {
        let a = T::read::<L>(x, at);
        even = a.mul_add(a, even);
        at += LANES;
    }
    (even + odd).sum()
}

/// Writes `x + delta`, rounded, and returns the sum of its squares.
#[inline(always)]
fn add<L: Lanes, T: Scalar>(x: &[T], delta: &[T], sum: &mut [T]) -> f32 {
    let mut squares = L::splat(0.0);
    for at in (0..x.len()).step_by(LANES) {
        let s = T::round(T::read::<L>(x, at) + T::read::<L>(delta, at));
        squares = s.mul_add(s, squares);
        T::write(sum, at, s);
    }
    squares.sum()
}

#[inline(always)]
fn normalise<L: Lanes, T: Scalar>(x: &[T], squares: f32, factors: &[f32], eps: f32, meaning: Gain, y: &mut [T]) -> f32 {
    let inverse = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    let r = L::splat(inverse);
    for at in (0..x.len()).step_by(LANES) {
        let normed = T::read::<L>(x, at) * r;
        let normed = if meaning == Gain::Plain {
            T::round(normed)
        } else {
            normed
        };
        T::write(y, at, normed * f32::read::<L>(factors, at));
    }
    inverse
}

/// Writes `dx` and returns `dgain` (`[d]`) if it is wanted.
pub(super) fn backward<T: Scalar>(
    x: &Tensor,
    inverse: &[f32],
    factors: &[f32],
    gradients: Gradients<T>,
    wants_gain: bool,
) -> Option<Vec<f32>> {
    let Gradients { dy, dsum, dx } = gradients;
    let (x, dy) = (Rows::<T>::of(x), Rows::<T>::of(dy));
    let dsum = dsum.map(Rows::<T>::of);
    let width = factors.len();
    // Blocks do not depend on the number of threads, so neither does the order of additions into the gain's gradient.
    let rows_a_block = grain(width);
    let num_blocks = inverse.len().div_ceil(rows_a_block);
    let mut partial = vec![0.0f32; if wants_gain { num_blocks * width } else { 0 }];
    let (dx, parts) = (Shared::new(dx), Shared::new(&mut partial));
    parallel::for_each_range(num_blocks, 1, |blocks| {
        for block in blocks {
            let rows = block * rows_a_block..((block + 1) * rows_a_block).min(inverse.len());
            // SAFETY: each block is met once.
            #[allow(unsafe_code)]
            let (dx, dgain) = unsafe {
                let dgain = wants_gain.then(|| parts.part(block * width..(block + 1) * width));
                (dx.part(rows.start * width..rows.end * width), dgain)
            };
            dispatch(Backward {
                x,
                dy,
                dsum,
                first: rows.start,
                inverse: &inverse[rows],
                factors,
                dx,
                dgain,
            });
        }
    });
    wants_gain.then(|| {
        let mut total = vec![0.0f32; width];
        for part in partial.chunks_exact(width.max(1)) {
            total.iter_mut().zip(part).for_each(|(sum, more)| *sum += more);
        }
        total
    })
}

struct Backward<'a, T> {
    x: Rows<'a, T>,
    dy: Rows<'a, T>,
    dsum: Option<Rows<'a, T>>,
    first: usize,
    inverse: &'a [f32],
    factors: &'a [f32],
    dx: &'a mut [T],
    dgain: Option<&'a mut [f32]>,
}

impl<T: Scalar> Kernel for Backward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let width = self.factors.len();
        for (i, &inverse) in self.inverse.iter().enumerate() {
            let (x, dy) = (self.x.row(self.first + i), self.dy.row(self.first + i));
            let dx = &mut self.dx[i * width..(i + 1) * width];
            let along = match &mut self.dgain {
                Some(dgain) => project_with_gain::<L, T>(x, dy, self.factors, inverse, dgain),
                None => project::<L, T>(x, dy, self.factors),
            };
            let r = L::splat(inverse);
            let c = L::splat(-inverse * inverse * inverse * along / width as f32);
            match self.dsum {
                Some(dsum) => {
                    let dsum = dsum.row(self.first + i);
                    for at in (0..width).step_by(LANES) {
                        let g = T::read::<L>(dy, at) * f32::read::<L>(self.factors, at);
                        let d = g.mul_add(r, T::read::<L>(dsum, at));
                        T::write(dx, at, T::read::<L>(x, at).mul_add(c, d));
                    }
                }
                None => {
                    for at in (0..width).step_by(LANES) {
                        let g = T::read::<L>(dy, at) * f32::read::<L>(self.factors, at);
                        T::write(dx, at, T::read::<L>(x, at).mul_add(c, g * r));
                    }
                }
            }
        }
    }
}

/// `Σ dy · gain · x`.
#[inline(always)]
fn project<L: Lanes, T: Scalar>(x: &[T], dy: &[T], factors: &[f32]) -> f32 {
    let mut along = L::splat(0.0);
    for at in (0..x.len()).step_by(LANES) {
        let g = T::read::<L>(dy, at) * f32::read::<L>(factors, at);
        along = g.mul_add(T::read::<L>(x, at), along);
    }
    along.sum()
}

/// As [`project`], adding the row's part of the gain's gradient.
#[inline(always)]
fn project_with_gain<L: Lanes, T: Scalar>(x: &[T], dy: &[T], factors: &[f32], inverse: f32, dgain: &mut [f32]) -> f32 {
    let (mut along, r) = (L::splat(0.0), L::splat(inverse));
    for at in (0..x.len()).step_by(LANES) {
        let product = T::read::<L>(dy, at) * T::read::<L>(x, at);
        along = product.mul_add(f32::read::<L>(factors, at), along);
        f32::write(dgain, at, product.mul_add(r, f32::read::<L>(dgain, at)));
    }
    along.sum()
}
