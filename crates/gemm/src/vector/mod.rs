//! Sixteen f32 at a time: one body of code, compiled for AVX-512, for AVX2 and for any machine.
//!
//! A [`Kernel`] is written once over [`Lanes`]; [`dispatch`] runs it on the best [`Unit`] of this machine. The types
//! behind `Lanes` cannot be named outside, so a kernel cannot meet instructions that the machine lacks.
//!
//! ```
//! use gemm::vector::{Kernel, Lanes, Scalar, dispatch};
//!
//! struct Sum<'a>(&'a [f32]);
//! impl Kernel for Sum<'_> {
//!     type Output = f32;
//!     #[inline(always)]
//!     fn run<L: Lanes>(self) -> f32 {
//!         let mut sum = L::splat(0.0);
//!         for at in (0..self.0.len()).step_by(16) {
//!             sum = sum + f32::read::<L>(self.0, at);
//!         }
//!         sum.sum()
//!     }
//! }
//! assert_eq!(dispatch(Sum(&[1.0; 37])), 37.0);
//! ```

mod lanes;
mod portable;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::unit::Unit;

pub use lanes::{LANES, Lanes};
pub use scalar::Scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, bf16_bits};

pub(crate) use portable::Portable;

/// Work written once over [`Lanes`].
///
/// Mark `run`, and what it calls with lanes, `#[inline(always)]`, and hand on no closure that computes with lanes: a
/// function or closure that the compiler leaves outside of the dispatched one has lost its instructions.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The work.
    fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs `kernel` on [`Unit::best`].
#[inline]
#[allow(unsafe_code)]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match Unit::best() {
        // SAFETY: a unit of this machine.
        #[cfg(target_arch = "x86_64")]
        Unit::Amx | Unit::Avx512Bf16 | Unit::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: a unit of this machine.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx2 => unsafe { x86::run_avx2(kernel) },
        _ => kernel.run::<Portable>(),
    }
}

#[cfg(test)]
mod tests;
