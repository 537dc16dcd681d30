//! The loops: in place forward; one pass over `dy` and `y` backward, sums in f32 over bands of rows.

use tensor_core::gemm::vector::Scalar as _;
use tensor_core::parallel::{self, Shared};

use crate::rows::{Rows, grain};
use tensor_core::vector::{Kernel, LANES, Lanes, Scalar, dispatch};

/// Rows whose products are summed by one thread in order, so that sums are the same for any number of threads.
const BAND: usize = 64;

/// Multiplies the rows of the contiguous `y` by `factors`.
pub(super) fn forward<T: Scalar>(y: &mut [T], factors: &[f32]) {
    let width = factors.len().max(1);
    let (num_rows, y) = (y.len() / width, Shared::new(y));
    parallel::for_each_range(num_rows, grain(width), |rows| {
        // SAFETY: each range of rows is met once.
        #[allow(unsafe_code)]
        let rows = unsafe { y.part(rows.start * width..rows.end * width) };
        dispatch(Forward { rows, factors });
    });
}

struct Forward<'a, T> {
    rows: &'a mut [T],
    factors: &'a [f32],
}

impl<T: Scalar> Kernel for Forward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for row in self.rows.chunks_exact_mut(self.factors.len().max(1)) {
            for at in (0..row.len()).step_by(LANES) {
                let y = T::read::<L>(row, at) * f32::read::<L>(self.factors, at);
                T::write(row, at, y);
            }
        }
    }
}

/// Writes `dy ⊙ factors` to `dx` and `Σ_t dy ⊙ y` to `sums`.
pub(super) fn backward<T: Scalar>(dy: Rows<T>, y: &[T], factors: &[f32], dx: &mut [T], sums: &mut [f32]) {
    let width = factors.len().max(1);
    let num_rows = y.len() / width;
    let num_bands = num_rows.div_ceil(BAND);
    let mut bands = vec![0.0f32; num_bands * width];
    let (dx, shared) = (Shared::new(dx), Shared::new(&mut bands));
    parallel::for_each_range(num_bands, 1, |range| {
        for band in range {
            let rows = band * BAND..((band + 1) * BAND).min(num_rows);
            // SAFETY: each band is met once.
            #[allow(unsafe_code)]
            let (dx, sums) = unsafe {
                (
                    dx.part(rows.start * width..rows.end * width),
                    shared.part(band * width..(band + 1) * width),
                )
            };
            dispatch(Backward {
                dy,
                y: &y[rows.start * width..rows.end * width],
                first: rows.start,
                factors,
                dx,
                sums,
            });
        }
    });
    sums.fill(0.0);
    for band in bands.chunks_exact(width) {
        for (sum, part) in sums.iter_mut().zip(band) {
            *sum += part;
        }
    }
}

struct Backward<'a, T> {
    dy: Rows<'a, T>,
    y: &'a [T],
    first: usize,
    factors: &'a [f32],
    dx: &'a mut [T],
    sums: &'a mut [f32],
}

impl<T: Scalar> Kernel for Backward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.factors.len().max(1);
        for (i, (y, dx)) in self
            .y
            .chunks_exact(width)
            .zip(self.dx.chunks_exact_mut(width))
            .enumerate()
        {
            let dy = self.dy.row(self.first + i);
            for at in (0..width).step_by(LANES) {
                let slope = T::read::<L>(dy, at);
                T::write(dx, at, slope * f32::read::<L>(self.factors, at));
                let sum = slope.mul_add(T::read::<L>(y, at), f32::read::<L>(self.sums, at));
                f32::write(self.sums, at, sum);
            }
        }
    }
}
