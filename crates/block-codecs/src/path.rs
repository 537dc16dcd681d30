//! Which instructions a part is computed with.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use gemm::Unit;

use super::{BlockSize, Number, Scheme, reference};

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// The instruction sets that the codecs are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// 512 bits: AVX-512 F, BW, DQ and VL.
    Avx512,
    /// 256 bits: AVX2.
    Avx2,
    /// The plain loops of [`reference`].
    Plain,
}

impl InstructionSet {
    /// Those of this machine, the best first: what its [`Unit`]s bring.
    pub fn available() -> &'static [Self] {
        static FOUND: OnceLock<Vec<InstructionSet>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut found: Vec<Self> = Unit::available().iter().map(|&unit| unit.into()).collect();
            found.dedup();
            found
        })
    }

    /// That of [`Unit::best`].
    pub fn best() -> Self {
        Unit::best().into()
    }

    fn check(self) {
        assert!(Self::available().contains(&self), "this machine has no {self:?}");
    }
}

impl From<Unit> for InstructionSet {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Amx | Unit::Avx512Bf16 | Unit::Avx512 => Self::Avx512,
            Unit::Avx2 => Self::Avx2,
            Unit::Portable => Self::Plain,
        }
    }
}

/// Whole blocks: as many values as absmax times `block`, and their codes.
pub(super) fn quantise<T: Number>(
    set: InstructionSet,
    scheme: Scheme,
    block: BlockSize,
    values: &[T],
    codes: &mut [u8],
    absmax: &mut [f32],
) {
    set.check();
    match set {
        // SAFETY: the machine has the instructions, and blocks are whole and multiples of 32.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { avx512::quantise(scheme, block.get(), values, codes, absmax) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { avx2::quantise(scheme, block.get(), values, codes, absmax) },
        _ => reference::quantise(scheme, block, values, codes, absmax),
    }
}

/// The other way.
pub(super) fn dequantise<T: Number>(
    set: InstructionSet,
    scheme: Scheme,
    block: BlockSize,
    codes: &[u8],
    absmax: &[f32],
    values: &mut [T],
) {
    set.check();
    match set {
        // SAFETY: the machine has the instructions, and blocks are whole and multiples of 32.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { avx512::dequantise(scheme, block.get(), codes, absmax, values) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { avx2::dequantise(scheme, block.get(), codes, absmax, values) },
        _ => reference::dequantise(scheme, block, codes, absmax, values),
    }
}
