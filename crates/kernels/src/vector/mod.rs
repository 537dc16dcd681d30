//! Sixteen f32 at a time: one body of code, compiled for AVX-512, for AVX2 and for any machine.
//!
//! A [`Kernel`] is written once over [`Lanes`]; [`dispatch`] runs it with the best instructions this processor has.
//! The types behind `Lanes` cannot be named outside, so a kernel cannot meet instructions that the machine lacks.
//!
//! ```
//! use kernels::vector::{Kernel, Lanes, Scalar, dispatch};
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

use std::sync::OnceLock;

pub use lanes::{LANES, Lanes};
pub use scalar::Scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

pub(crate) use portable::Portable;

/// Work written once over [`Lanes`]. Mark `run`, and what it calls, `#[inline(always)]`.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The work.
    fn run<L: Lanes>(self) -> Self::Output;
}

/// The instruction sets that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// 512 bits: AVX-512 F, BW, DQ, VL.
    Avx512,
    /// 256 bits: AVX2 and FMA.
    Avx2,
    /// Whatever the compiler may assume.
    Portable,
}

impl InstructionSet {
    /// Those of this machine, the best first.
    pub fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<InstructionSet>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut found = vec![Self::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    found.insert(0, Self::Avx2);
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("fma")
                {
                    found.insert(0, Self::Avx512);
                }
            }
            found
        })
    }

    /// The best of this machine.
    pub fn best() -> Self {
        #[cfg(test)]
        if let Some(set) = forced::set() {
            return set;
        }
        Self::available()[0]
    }
}

/// One instruction set for the calling thread, while a test compares them.
#[cfg(test)]
pub(crate) mod forced {
    use std::cell::Cell;

    use super::InstructionSet;

    thread_local! {
        static SET: Cell<Option<InstructionSet>> = const { Cell::new(None) };
    }

    pub(super) fn set() -> Option<InstructionSet> {
        SET.get()
    }

    /// Runs `body` with each instruction set in turn; libtorch's other threads keep to the best.
    pub(crate) fn each(body: impl Fn(InstructionSet)) {
        for &set in InstructionSet::available() {
            SET.set(Some(set));
            body(set);
        }
        SET.set(None);
    }
}

/// Runs `kernel` with this machine's best instructions.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    dispatch_on(InstructionSet::best(), kernel)
}

/// Runs `kernel` with the instructions of `set`, for tests and measurements.
///
/// # Panics
/// If this machine does not have them.
#[allow(unsafe_code)]
pub fn dispatch_on<K: Kernel>(set: InstructionSet, kernel: K) -> K::Output {
    assert!(
        InstructionSet::available().contains(&set),
        "this machine has no {set:?}"
    );
    match set {
        // SAFETY: detected on this machine.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: detected on this machine.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { x86::run_avx2(kernel) },
        _ => kernel.run::<Portable>(),
    }
}

#[cfg(test)]
mod tests;
