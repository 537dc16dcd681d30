//! What tiles need of sixteen lanes beyond [`Lanes`]: transposition, masks, pairs of bf16.

use std::array::from_fn;

use half::bf16;

use super::LANES;
use crate::vector::{Lanes, Portable};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub(super) use {
    avx2::run_avx2,
    avx512::{run_avx512, run_avx512_bf16},
};

/// Sixteen f32 around a product of tiles.
pub trait TileLanes: Lanes {
    /// How many of these the machine's registers hold: what a block of sums may take.
    const REGISTERS: usize;

    /// Columns of sixteen rows.
    fn transpose(rows: [Self; LANES]) -> [Self; LANES];
    /// This where `first <= at <= last`, minus infinity elsewhere.
    #[must_use]
    fn between(self, at: f32, first: Self, last: Self) -> Self;
    /// Whether all lanes are equal.
    fn same(self, other: Self) -> bool;
    /// The bits of pairs: the even row's number below the odd row's.
    fn weave(even: &[bf16; LANES], odd: &[bf16; LANES]) -> Self;
    /// Rounds two rows to bf16 and writes them in pairs.
    fn store_pairs(even: Self, odd: Self, to: &mut [bf16; 2 * LANES]);
    /// Rounds two rows to bf16 and writes them.
    fn store_rows(even: Self, odd: Self, to_even: &mut [bf16; LANES], to_odd: &mut [bf16; LANES]);
    /// Adds `a[0] · b[even] + a[1] · b[odd]` of sixteen pairs b, given as [`Self::weave`] gives them.
    #[must_use]
    fn add_pairs(self, a: [bf16; 2], pairs: Self) -> Self;
}

/// `2^x` to about two units in the last place for x of at most 128; 0 from -150 down; NaN stays NaN.
#[expect(clippy::approx_constant, reason = "a coefficient near ln 2, which it is not")]
#[inline(always)]
pub fn exp2<L: Lanes>(x: L) -> L {
    let x = x.at_least(L::splat(-150.0));
    // Adding 1.5 · 2^23 rounds to a whole number.
    let magic = L::splat(12_582_912.0);
    let n = (x + magic) - magic;
    let r = x - n;
    // Minimax of (2^r - 1) / r on |r| <= 1/2, relative to 2^r: 9.2e-8 at most.
    let p = L::splat(1.326_472_7e-3);
    let p = p.mul_add(r, L::splat(9.671_513e-3));
    let p = p.mul_add(r, L::splat(5.550_733_6e-2));
    let p = p.mul_add(r, L::splat(2.402_224_2e-1));
    let p = p.mul_add(r, L::splat(6.931_47e-1));
    p.mul_add(r, L::splat(1.0)).ldexp(n)
}

#[inline(always)]
fn array<L: Lanes>(lanes: L) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    lanes.store(&mut out);
    out
}

impl TileLanes for Portable {
    // Of 16 bytes each, the least that 64-bit processors have.
    const REGISTERS: usize = 4;

    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let rows = rows.map(array);
        from_fn(|i| Self::load(&from_fn(|j| rows[j][i])))
    }
    #[inline(always)]
    fn between(self, at: f32, first: Self, last: Self) -> Self {
        let (x, first, last) = (array(self), array(first), array(last));
        Self::load(&from_fn(|i| {
            if first[i] <= at && at <= last[i] {
                x[i]
            } else {
                f32::NEG_INFINITY
            }
        }))
    }
    #[expect(clippy::float_cmp, reason = "equality is what is asked for")]
    #[inline(always)]
    fn same(self, other: Self) -> bool {
        array(self) == array(other)
    }
    #[inline(always)]
    fn weave(even: &[bf16; LANES], odd: &[bf16; LANES]) -> Self {
        Self::load(&from_fn(|i| {
            f32::from_bits(u32::from(odd[i].to_bits()) << 16 | u32::from(even[i].to_bits()))
        }))
    }
    #[inline(always)]
    fn store_pairs(even: Self, odd: Self, to: &mut [bf16; 2 * LANES]) {
        let mut rows = [[bf16::ZERO; LANES]; 2];
        even.store_bf16(&mut rows[0]);
        odd.store_bf16(&mut rows[1]);
        *to = from_fn(|i| rows[i % 2][i / 2]);
    }
    #[inline(always)]
    fn store_rows(even: Self, odd: Self, to_even: &mut [bf16; LANES], to_odd: &mut [bf16; LANES]) {
        even.store_bf16(to_even);
        odd.store_bf16(to_odd);
    }
    #[inline(always)]
    fn add_pairs(self, a: [bf16; 2], pairs: Self) -> Self {
        let bits = array(pairs).map(f32::to_bits);
        let even = Self::load(&bits.map(|bits| f32::from_bits(bits << 16)));
        let odd = Self::load(&bits.map(|bits| f32::from_bits(bits & 0xffff_0000)));
        let sum = even.mul_add(Self::splat(a[0].to_f32()), self);
        odd.mul_add(Self::splat(a[1].to_f32()), sum)
    }
}
