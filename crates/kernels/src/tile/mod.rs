//! Matrix products of blocks, on the best unit that a core has: AMX tiles, AVX-512 bf16, AVX2, plain loops.
//!
//! `C [m, n] (+)= A [m, k] · B [k, n]`, numbers f32 or bf16, sums in f32. A [`Left`] operand lies in rows; a [`Right`]
//! operand lies in panels of 16 columns ([`pack`] makes them), in which bf16 holds the rows in pairs, as `tdpbf16ps` and
//! `vdpbf16ps` read them. m, n and k are multiples of [`BLOCK`]: callers pad with zeros in their scratch memory.
//!
//! Around the products, flash attention and cross-entropy work on `Sᵀ = K·Qᵀ`: sixteen queries lie in sixteen lanes, so
//! maxima and sums over keys go down columns and never across a register.

mod amx;
mod lanes;
mod number;
pub(crate) mod pack;
mod product;
pub(crate) mod scratch;
mod shared;
pub(crate) mod softmax;

use std::sync::OnceLock;

pub(crate) use amx::Tiles;
pub(crate) use lanes::{TileLanes, exp2};
pub(crate) use number::Number;
pub(crate) use product::{Left, Right, product};
pub(crate) use shared::{Shared, balance};

/// What every side of a product is a multiple of.
pub(crate) const BLOCK: usize = 32;
/// Columns of a panel, and lanes of a vector.
pub(crate) const LANES: usize = 16;

/// The next multiple of [`BLOCK`].
pub(crate) const fn whole(n: usize) -> usize {
    n.div_ceil(BLOCK) * BLOCK
}

/// What multiplies blocks on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Tile registers of 16 × 32 bf16, and AVX-512 around them.
    Amx,
    /// AVX-512 with its bf16 instructions.
    Avx512,
    /// AVX2 and FMA; bf16 is widened.
    Avx2,
    /// Plain loops.
    Portable,
}

impl Unit {
    /// Those of this machine, the best first.
    pub(crate) fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Unit>> = OnceLock::new();
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
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("fma")
                {
                    found.insert(0, Self::Avx512);
                    if amx::permitted() {
                        found.insert(0, Self::Amx);
                    }
                }
            }
            found
        })
    }

    /// The best of this machine.
    pub(crate) fn best() -> Self {
        Self::available()[0]
    }
}

/// Work written once over [`TileLanes`]. Mark `run`, and what it calls, `#[inline(always)]`.
pub(crate) trait TileKernel {
    /// The work; `tiles` says that this thread's tile registers are set up where the unit has any.
    fn run<L: TileLanes>(self, tiles: &Tiles);
}

/// Runs `kernel` on `unit`, which this machine has.
#[allow(unsafe_code)]
pub(crate) fn dispatch(unit: Unit, kernel: impl TileKernel) {
    assert!(Unit::available().contains(&unit), "this machine has no {unit:?}");
    let tiles = Tiles::set_up(unit);
    match unit {
        // SAFETY: detected on this machine.
        #[cfg(target_arch = "x86_64")]
        Unit::Amx | Unit::Avx512 => unsafe { lanes::run_avx512(kernel, &tiles) },
        // SAFETY: detected on this machine.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx2 => unsafe { lanes::run_avx2(kernel, &tiles) },
        _ => kernel.run::<crate::vector::Portable>(&tiles),
    }
}

#[cfg(test)]
mod tests;
