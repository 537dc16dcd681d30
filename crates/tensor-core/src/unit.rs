//! What computes on this machine's CPU: one detection of instruction sets for every kernel of the program.
//!
//! ```
//! use tensor_core::unit::{self, Unit};
//!
//! // A test sees what every unit of the machine gives, whatever the best one is.
//! unit::on_each(|unit| assert_eq!(Unit::best(), unit));
//! assert_eq!(Unit::best(), Unit::available()[0]);
//! ```

use std::cell::Cell;
use std::sync::OnceLock;

/// A set of instructions, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Tile registers of 16 × 32 bf16, and AVX-512 with its bf16 instructions around them.
    Amx,
    /// 512 bits with the bf16 instructions.
    Avx512Bf16,
    /// 512 bits: AVX-512 F, BW, DQ, VL.
    Avx512,
    /// 256 bits: AVX2 and FMA.
    Avx2,
    /// Whatever the compiler may assume.
    Portable,
}

thread_local! {
    static FORCED: Cell<Option<Unit>> = const { Cell::new(None) };
}

impl Unit {
    /// Those of this machine, the best first.
    pub fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Unit>> = OnceLock::new();
        FOUND.get_or_init(|| {
            #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "nothing better there"))]
            let mut found = vec![Self::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                let avx512 = avx2
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
                let amx = bf16 && crate::tile::amx::permitted();
                for (unit, has) in [
                    (Self::Avx2, avx2),
                    (Self::Avx512, avx512),
                    (Self::Avx512Bf16, bf16),
                    (Self::Amx, amx),
                ] {
                    if has {
                        found.insert(0, unit);
                    }
                }
            }
            found
        })
    }

    /// The best of this machine; inside [`on_each`], the one whose turn it is.
    pub fn best() -> Self {
        FORCED.get().unwrap_or_else(|| Self::available()[0])
    }
}

/// Runs `body` with each unit of this machine in turn as the best one, for tests and measurements.
///
/// The choice holds for the calling thread, and for the loops of [`crate::parallel`] that it starts.
pub fn on_each(mut body: impl FnMut(Unit)) {
    for &unit in Unit::available() {
        let _held = hold(Some(unit));
        body(unit);
    }
}

/// The unit that the calling thread is held to.
pub(crate) fn held() -> Option<Unit> {
    FORCED.get()
}

/// Holds the calling thread to a unit that the machine has, until the result is dropped.
pub(crate) fn hold(unit: Option<Unit>) -> Held {
    Held(FORCED.replace(unit))
}

pub(crate) struct Held(Option<Unit>);

impl Drop for Held {
    fn drop(&mut self) {
        FORCED.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel;

    #[test]
    fn loops_keep_to_the_unit_of_the_thread_that_starts_them() {
        on_each(|unit| {
            parallel::for_each_range(64, 1, |_| assert_eq!(Unit::best(), unit));
            parallel::balance(64, |_| assert_eq!(Unit::best(), unit));
        });
        parallel::for_each_range(64, 1, |_| assert_eq!(Unit::best(), Unit::available()[0]));
    }

    #[test]
    fn a_panic_frees_the_thread_again() {
        let caught = std::panic::catch_unwind(|| on_each(|_| panic!("any")));
        assert!(caught.is_err() && held().is_none());
    }

    #[test]
    fn units_are_listed_from_the_best_down() {
        let units = Unit::available();
        assert!(units.is_sorted() && units.last() == Some(&Unit::Portable), "{units:?}");
    }
}
