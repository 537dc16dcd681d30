//! What computes on this machine's CPU: one detection of instruction sets for every kernel of the program.
//!
//! ```
//! use gemm::unit::{self, Unit};
//!
//! // A test sees what every unit of the machine gives, whatever the best one is.
//! unit::on_each(|unit| assert_eq!(Unit::best(), unit));
//! assert_eq!(Unit::best(), Unit::available()[0]);
//! ```

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

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

const NAMES: [(Unit, &str); 5] = [
    (Unit::Amx, "amx"),
    (Unit::Avx512Bf16, "avx512_bf16"),
    (Unit::Avx512, "avx512"),
    (Unit::Avx2, "avx2"),
    (Unit::Portable, "portable"),
];

/// Which of [`Unit::available`] the process computes on.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

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

    /// The best of this machine, or the one that was chosen; inside [`on_each`], the one whose turn it is.
    pub fn best() -> Self {
        FORCED
            .get()
            .unwrap_or_else(|| Self::available()[CHOSEN.load(Ordering::Relaxed)])
    }

    /// Has every thread compute on `self` from now on: a processor's widest unit is not always its fastest.
    ///
    /// Errors: this machine does not have it; nothing changes then.
    pub fn choose(self) -> Result<(), NoSuchUnit> {
        let idx = Self::available().iter().position(|unit| *unit == self);
        let idx = idx.ok_or_else(|| NoSuchUnit {
            found: self.to_string(),
        })?;
        CHOSEN.store(idx, Ordering::Relaxed);
        Ok(())
    }

    /// Has the calling thread, and the products of [`crate`] that it starts, compute on `self` while `body` runs.
    ///
    /// Other threads that `body` starts must be told: with [`held`] here and `run` there.
    ///
    /// # Panics
    /// If this machine does not have it.
    pub fn run<T>(self, body: impl FnOnce() -> T) -> T {
        assert!(Self::available().contains(&self), "a unit of this machine");
        let _held = hold(Some(self));
        body()
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = NAMES.iter().find(|(unit, _)| unit == self).expect("a name for each");
        f.pad(name)
    }
}

impl FromStr for Unit {
    type Err = NoSuchUnit;

    fn from_str(name: &str) -> Result<Self, NoSuchUnit> {
        let unit = NAMES.iter().find(|(_, known)| *known == name);
        unit.map(|(unit, _)| *unit)
            .ok_or_else(|| NoSuchUnit { found: name.to_owned() })
    }
}

/// A unit that this machine does not have.
#[derive(Debug, PartialEq, Eq)]
pub struct NoSuchUnit {
    found: String,
}

impl fmt::Display for NoSuchUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let available: Vec<String> = Unit::available().iter().map(ToString::to_string).collect();
        write!(
            f,
            "wanted an instruction set of this machine ({}), found `{}`",
            available.join(", "),
            self.found
        )
    }
}

impl std::error::Error for NoSuchUnit {}

/// Runs `body` with each unit of this machine in turn as the best one, for tests and measurements.
///
/// The choice holds as it does in [`Unit::run`].
pub fn on_each(mut body: impl FnMut(Unit)) {
    for &unit in Unit::available() {
        unit.run(|| body(unit));
    }
}

/// The unit that the calling thread is held to by [`Unit::run`] or [`on_each`].
pub fn held() -> Option<Unit> {
    FORCED.get()
}

/// Holds the calling thread to a unit that the machine has, until the result is dropped.
fn hold(unit: Option<Unit>) -> Held {
    Held(FORCED.replace(unit))
}

struct Held(Option<Unit>);

impl Drop for Held {
    fn drop(&mut self) {
        FORCED.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_frees_the_thread_again() {
        let caught = std::panic::catch_unwind(|| on_each(|_| panic!("any")));
        assert!(caught.is_err() && held().is_none());
    }

    #[test]
    fn units_are_chosen_by_name() {
        for &unit in Unit::available() {
            assert_eq!(unit.to_string().parse(), Ok(unit));
        }
        assert_eq!(Unit::available()[0].choose(), Ok(()));
        let error = "mmx".parse::<Unit>().unwrap_err().to_string();
        assert!(error.contains("portable") && error.contains("`mmx`"), "{error}");
        if let Some((missing, _)) = NAMES.iter().find(|(unit, _)| !Unit::available().contains(unit)) {
            assert!(missing.choose().is_err());
        }
    }

    #[test]
    fn units_are_listed_from_the_best_down() {
        let units = Unit::available();
        assert!(units.is_sorted() && units.last() == Some(&Unit::Portable), "{units:?}");
    }
}
