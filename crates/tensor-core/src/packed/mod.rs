//! Frozen weights in the order in which a core multiplies, for both directions.
//!
//! Products run on AMX tiles or in vector registers, over libtorch's own threads. A product may carry a low-rank term
//! along, `y = x Wᵀ + s (x Pᵀ) Qᵀ`: its second factor enters while the sums are still in registers, so that the update
//! costs no pass over `y`. The plain twin is [`reference`].
//!
//! Shapes: m rows, k inner and n outer width, r rank; x `[m, k]`, W `[n, k]`, P `[r, k]`, Q `[n, r]`.

#[cfg(target_arch = "x86_64")]
mod amx;
mod lanes;
mod matrix;
mod outer;
mod packings;
mod product;
pub mod reference;
#[cfg(test)]
mod tests;

use tch::{Device, Kind, Tensor};

use crate::Unit;

pub use matrix::PackedMatrix;
pub use outer::outer;
pub(crate) use packings::Packings;
pub use product::{LowRankTerm, Term, product};

impl PackedMatrix {
    /// Packs a bf16 CPU matrix `[n, k]`; none where nothing would be gained, or where a side is no multiple of 32.
    pub fn of(matrix: &Tensor) -> Option<Self> {
        if matrix.device() != Device::Cpu || matrix.kind() != Kind::BFloat16 || !is_worthwhile() {
            return None;
        }
        let (n, k) = matrix.size2().ok()?;
        (n > 0 && k > 0 && n % 32 == 0 && k % 32 == 0).then(|| Self::pack(matrix))
    }
}

/// Whether products here are faster than libtorch's on this machine: on any vector unit (`cargo bench -p benches --bench
/// packed` prints the numbers).
fn is_worthwhile() -> bool {
    Unit::best() != Unit::Portable
}
