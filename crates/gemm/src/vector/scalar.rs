//! The numbers that matrices hold: f32 and bf16, read and written as f32 lanes.

use half::bf16;

use super::lanes::{LANES, Lanes, Sealed};

/// f32 or bf16.
pub trait Scalar: Sealed + Copy + Default + Send + Sync + 'static {
    /// The sixteen numbers of `from` beginning at `at`; zeros beyond its end.
    fn read<L: Lanes>(from: &[Self], at: usize) -> L;
    /// Writes the sixteen numbers to `to` beginning at `at`; those beyond its end are dropped.
    fn write<L: Lanes>(to: &mut [Self], at: usize, lanes: L);
    /// What memory of this type would hold of these numbers.
    fn round<L: Lanes>(lanes: L) -> L;
    /// To f32, exactly.
    fn to_f32(self) -> f32;
    /// From f32: to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
}

impl Sealed for f32 {}
impl Sealed for bf16 {}

impl Scalar for f32 {
    #[inline(always)]
    fn read<L: Lanes>(from: &[Self], at: usize) -> L {
        let from = &from[at..];
        match from.first_chunk::<LANES>() {
            Some(whole) => L::load(whole),
            None => L::load(&padded(from)),
        }
    }
    #[inline(always)]
    fn write<L: Lanes>(to: &mut [Self], at: usize, lanes: L) {
        let to = &mut to[at..];
        if let Some(whole) = to.first_chunk_mut::<LANES>() {
            lanes.store(whole);
        } else {
            let mut all = [0.0; LANES];
            lanes.store(&mut all);
            to.copy_from_slice(&all[..to.len()]);
        }
    }
    #[inline(always)]
    fn round<L: Lanes>(lanes: L) -> L {
        lanes
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Scalar for bf16 {
    #[inline(always)]
    fn read<L: Lanes>(from: &[Self], at: usize) -> L {
        let from = &from[at..];
        match from.first_chunk::<LANES>() {
            Some(whole) => L::load_bf16(whole),
            None => L::load_bf16(&padded(from)),
        }
    }
    #[inline(always)]
    fn write<L: Lanes>(to: &mut [Self], at: usize, lanes: L) {
        let to = &mut to[at..];
        if let Some(whole) = to.first_chunk_mut::<LANES>() {
            lanes.store_bf16(whole);
        } else {
            let mut all = [Self::ZERO; LANES];
            lanes.store_bf16(&mut all);
            to.copy_from_slice(&all[..to.len()]);
        }
    }
    #[inline(always)]
    fn round<L: Lanes>(lanes: L) -> L {
        lanes.round_to_bf16()
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16_from_f32(x)
    }
}

#[inline(never)]
fn padded<T: Copy + Default>(from: &[T]) -> [T; LANES] {
    let mut all = [T::default(); LANES];
    all[..from.len()].copy_from_slice(from);
    all
}

#[inline(always)]
pub(crate) fn bf16_from_f32(x: f32) -> bf16 {
    let bits = x.to_bits();
    // Half of the last kept bit, less one where it is even: ties go to even.
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // The payload of a NaN may lie in the dropped bits alone.
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { nan } else { rounded } as u16)
}
