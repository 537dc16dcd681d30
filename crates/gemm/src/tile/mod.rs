//! Matrix products of blocks, on the best unit that a core has: AMX tiles, AVX-512 bf16, AVX2, plain loops.
//!
//! `C [m, n] (+)= A [m, k] · B [k, n]`, numbers f32 or bf16, sums in f32. A [`Left`] operand lies in rows; a [`Right`]
//! operand lies in panels of 16 columns ([`pack`] makes them), in which bf16 holds the rows in pairs, as `tdpbf16ps` and
//! `vdpbf16ps` read them. m, n and k are multiples of [`BLOCK`]: callers pad with zeros in their scratch memory.
//!
//! Around the products, flash attention and cross-entropy work on `Sᵀ = K·Qᵀ`: sixteen queries lie in sixteen lanes, so
//! maxima and sums over keys go down columns and never across a register.

pub(crate) mod amx;
mod lanes;
mod number;
pub mod pack;
mod product;
pub mod scratch;

pub use amx::Tiles;
#[cfg(target_arch = "x86_64")]
pub use amx::{Sums, TileSums};
pub use lanes::{TileLanes, exp2};
pub use number::Number;
pub use product::{Left, Right, add_rows, product};

use crate::unit::Unit;
use crate::vector::Portable;

/// What every side of a product is a multiple of.
pub const BLOCK: usize = 32;
/// Columns of a panel, and lanes of a vector.
pub const LANES: usize = 16;

/// The next multiple of [`BLOCK`].
pub const fn whole(n: usize) -> usize {
    n.div_ceil(BLOCK) * BLOCK
}

/// Has the line at `from` fetched into the nearest cache, if it can be; any address is allowed.
#[inline(always)]
pub fn prefetch<T>(from: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that reads nothing.
    #[allow(unsafe_code)]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// Work written once over [`TileLanes`]; what [`crate::vector::Kernel`] says of its body holds here too.
pub trait TileKernel {
    /// The work; `tiles` says that this thread's tile registers are set up where the unit has any.
    fn run<L: TileLanes>(self, tiles: &Tiles);
}

/// Runs `kernel` on [`Unit::best`].
#[allow(unsafe_code)]
pub fn dispatch(kernel: impl TileKernel) {
    let tiles = Tiles::set_up();
    match Unit::best() {
        // SAFETY: a unit of this machine.
        #[cfg(target_arch = "x86_64")]
        Unit::Amx | Unit::Avx512Bf16 => unsafe { lanes::run_avx512_bf16(kernel, &tiles) },
        // SAFETY: a unit of this machine.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx512 => unsafe { lanes::run_avx512(kernel, &tiles) },
        // SAFETY: a unit of this machine.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx2 => unsafe { lanes::run_avx2(kernel, &tiles) },
        _ => kernel.run::<Portable>(&tiles),
    }
}

#[cfg(test)]
mod tests;
