//! The gated activations' loops, row by row.

use std::ops::Range;

use tensor_core::parallel::{self, Shared};

use super::Activation;
use crate::rows::{Rows, grain};
use tensor_core::vector::{Kernel, LANES, Lanes, Scalar, dispatch};

/// Writes `activation(gate) · up` to the contiguous `y`.
pub(super) fn forward<T: Scalar>(activation: Activation, gate: Rows<T>, up: Rows<T>, y: &mut [T]) {
    let width = gate.width().max(1);
    let (num_rows, y) = (y.len() / width, Shared::new(y));
    parallel::for_each_range(num_rows, grain(width), |rows| {
        // SAFETY: each range of rows is met once.
        #[allow(unsafe_code)]
        let y = unsafe { y.part(rows.start * width..rows.end * width) };
        let first = rows.start;
        match activation {
            Activation::Silu => dispatch(Forward {
                gate,
                up,
                first,
                y,
                form: Silu,
            }),
            Activation::GeluTanh => dispatch(Forward {
                gate,
                up,
                first,
                y,
                form: GeluTanh,
            }),
        }
    });
}

/// Where the two gradients go: rows `stride` apart, that of `up` beginning at `offset`.
pub(super) struct Gradients<'a, T> {
    gate: Shared<'a, T>,
    up: Shared<'a, T>,
    offset: usize,
    stride: usize,
}

impl<'a, T: Copy> Gradients<'a, T> {
    /// Two contiguous tensors with rows of `width` numbers.
    pub(super) fn apart(gate: &'a mut [T], up: &'a mut [T], width: usize) -> Self {
        Self {
            gate: Shared::new(gate),
            up: Shared::new(up),
            offset: 0,
            stride: width,
        }
    }

    /// One contiguous tensor; the gate's gradient is the first half of each row of `2 width` numbers.
    pub(super) fn packed(both: &'a mut [T], width: usize) -> Self {
        let both = Shared::new(both);
        Self {
            gate: both,
            up: both,
            offset: width,
            stride: 2 * width,
        }
    }

    /// # Safety
    /// No row is in use twice.
    #[allow(unsafe_code)]
    #[inline(always)]
    unsafe fn row(&self, i: usize, width: usize) -> (&'a mut [T], &'a mut [T]) {
        let (gate, up) = (i * self.stride, i * self.stride + self.offset);
        // SAFETY: the two lie in memory of their own or in halves of one row.
        unsafe { (self.gate.part(gate..gate + width), self.up.part(up..up + width)) }
    }
}

/// Writes the gradients of `gate` and `up`.
pub(super) fn backward<T: Scalar>(
    activation: Activation,
    gate: Rows<T>,
    up: Rows<T>,
    dy: Rows<T>,
    into: &Gradients<T>,
    num_rows: usize,
) {
    parallel::for_each_range(num_rows, grain(gate.width()), |rows| match activation {
        Activation::Silu => dispatch(Backward {
            gate,
            up,
            dy,
            rows,
            into,
            form: Silu,
        }),
        Activation::GeluTanh => dispatch(Backward {
            gate,
            up,
            dy,
            rows,
            into,
            form: GeluTanh,
        }),
    });
}

/// An activation `z σ(k(z))` by its `k`.
trait Form: Copy {
    fn k<L: Lanes>(self, z: L) -> L;
    fn slope<L: Lanes>(self, z: L) -> L;
}

#[derive(Clone, Copy)]
struct Silu;

impl Form for Silu {
    #[inline(always)]
    fn k<L: Lanes>(self, z: L) -> L {
        z
    }
    #[inline(always)]
    fn slope<L: Lanes>(self, _: L) -> L {
        L::splat(1.0)
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

/// `2 √(2/π)`.
const TWICE_ROOT: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
const CUBIC: f32 = 0.044_715;

impl Form for GeluTanh {
    #[inline(always)]
    fn k<L: Lanes>(self, z: L) -> L {
        let square = z * z;
        z * square.mul_add(L::splat(TWICE_ROOT * CUBIC), L::splat(TWICE_ROOT))
    }
    #[inline(always)]
    fn slope<L: Lanes>(self, z: L) -> L {
        let square = z * z;
        square.mul_add(L::splat(3.0 * TWICE_ROOT * CUBIC), L::splat(TWICE_ROOT))
    }
}

struct Forward<'a, T, F> {
    gate: Rows<'a, T>,
    up: Rows<'a, T>,
    first: usize,
    y: &'a mut [T],
    form: F,
}

impl<T: Scalar, F: Form> Kernel for Forward<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (i, y) in self.y.chunks_exact_mut(self.gate.width()).enumerate() {
            let (gate, up) = (self.gate.row(self.first + i), self.up.row(self.first + i));
            for at in (0..y.len()).step_by(LANES) {
                let z = T::read::<L>(gate, at);
                T::write(y, at, z * self.form.k(z).sigmoid() * T::read::<L>(up, at));
            }
        }
    }
}

struct Backward<'a, T, F> {
    gate: Rows<'a, T>,
    up: Rows<'a, T>,
    dy: Rows<'a, T>,
    rows: Range<usize>,
    into: &'a Gradients<'a, T>,
    form: F,
}

impl<T: Scalar, F: Form> Kernel for Backward<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.gate.width();
        for i in self.rows {
            let (gate, up, dy) = (self.gate.row(i), self.up.row(i), self.dy.row(i));
            // SAFETY: each range of rows is met once.
            #[allow(unsafe_code)]
            let (dgate, dup) = unsafe { self.into.row(i, width) };
            for at in (0..width).step_by(LANES) {
                let (z, dy) = (T::read::<L>(gate, at), T::read::<L>(dy, at));
                let s = self.form.k(z).sigmoid();
                let activated = z * s;
                // d(z σ(k)) = σ + z σ (1 - σ) k'.
                let slope = (activated * (L::splat(1.0) - s)).mul_add(self.form.slope(z), s);
                T::write(dup, at, dy * activated);
                T::write(dgate, at, dy * T::read::<L>(up, at) * slope);
            }
        }
    }
}
