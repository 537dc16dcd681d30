//! What tiles need of sixteen lanes beyond [`Lanes`]: transposition, masks, pairs of bf16.
#![allow(unsafe_code)]
#![allow(clippy::wildcard_imports, reason = "one name an instruction")]

use std::array::from_fn;

use half::bf16;

use super::{LANES, TileKernel, Tiles};
use crate::vector::{Lanes, Portable};

/// Sixteen f32 around a product of tiles.
pub trait TileLanes: Lanes {
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
    /// Adds `a[0] · b[even] + a[1] · b[odd]` of sixteen pairs `b`.
    #[must_use]
    fn add_pairs(self, a: [bf16; 2], b: &[bf16; 2 * LANES]) -> Self;
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

/// The methods in plain loops, for the two units without AVX-512.
macro_rules! in_plain_loops {
    ($lanes:ty) => {
        impl TileLanes for $lanes {
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
            fn add_pairs(self, a: [bf16; 2], b: &[bf16; 2 * LANES]) -> Self {
                let wide = |odd: usize| {
                    Self::load(&from_fn(|i| {
                        f32::from_bits(u32::from(b[2 * i + odd].to_bits()) << 16)
                    }))
                };
                let sum = wide(0).mul_add(Self::splat(a[0].to_f32()), self);
                wide(1).mul_add(Self::splat(a[1].to_f32()), sum)
            }
        }
    };
}
in_plain_loops!(Portable);
#[cfg(target_arch = "x86_64")]
in_plain_loops!(crate::vector::Avx2);

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{run_avx2, run_avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{LANES, TileKernel, TileLanes, Tiles, bf16};
    use crate::vector::{Avx2, Avx512};

    /// # Safety
    /// The machine has AVX-512 F, BW, DQ, VL and BF16, and FMA.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    pub(crate) unsafe fn run_avx512(kernel: impl TileKernel, tiles: &Tiles) {
        kernel.run::<Avx512>(tiles);
    }

    /// # Safety
    /// The machine has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn run_avx2(kernel: impl TileKernel, tiles: &Tiles) {
        kernel.run::<Avx2>(tiles);
    }

    // SAFETY of every block below: inlined into `run_avx512` alone; references to arrays cover what is touched.
    impl TileLanes for Avx512 {
        #[inline(always)]
        fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
            // Within 128 bits first, then the 128-bit parts.
            let mut quads = rows.map(|row| row.0);
            for four in quads.chunks_exact_mut(4) {
                unsafe {
                    let low = _mm512_castps_pd(_mm512_unpacklo_ps(four[0], four[1]));
                    let high = _mm512_castps_pd(_mm512_unpackhi_ps(four[0], four[1]));
                    let low_next = _mm512_castps_pd(_mm512_unpacklo_ps(four[2], four[3]));
                    let high_next = _mm512_castps_pd(_mm512_unpackhi_ps(four[2], four[3]));
                    four[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low_next));
                    four[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low_next));
                    four[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high_next));
                    four[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high_next));
                }
            }
            let mut out = rows;
            for c in 0..4 {
                unsafe {
                    let front = _mm512_shuffle_f32x4::<0x44>(quads[c], quads[4 + c]);
                    let back = _mm512_shuffle_f32x4::<0xee>(quads[c], quads[4 + c]);
                    let front_next = _mm512_shuffle_f32x4::<0x44>(quads[8 + c], quads[12 + c]);
                    let back_next = _mm512_shuffle_f32x4::<0xee>(quads[8 + c], quads[12 + c]);
                    out[c] = Self(_mm512_shuffle_f32x4::<0x88>(front, front_next));
                    out[4 + c] = Self(_mm512_shuffle_f32x4::<0xdd>(front, front_next));
                    out[8 + c] = Self(_mm512_shuffle_f32x4::<0x88>(back, back_next));
                    out[12 + c] = Self(_mm512_shuffle_f32x4::<0xdd>(back, back_next));
                }
            }
            out
        }
        #[inline(always)]
        fn between(self, at: f32, first: Self, last: Self) -> Self {
            unsafe {
                let at = _mm512_set1_ps(at);
                let inside = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(first.0, at);
                let inside = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(inside, at, last.0);
                Self(_mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), inside, self.0))
            }
        }
        #[inline(always)]
        fn same(self, other: Self) -> bool {
            unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) == 0xffff }
        }
        #[inline(always)]
        fn weave(even: &[bf16; LANES], odd: &[bf16; LANES]) -> Self {
            unsafe {
                let even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even.as_ptr().cast()));
                let odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(odd.as_ptr().cast()));
                Self(_mm512_castsi512_ps(_mm512_or_si512(even, _mm512_slli_epi32::<16>(odd))))
            }
        }
        #[inline(always)]
        fn store_pairs(even: Self, odd: Self, to: &mut [bf16; 2 * LANES]) {
            unsafe {
                let rounded: __m512i = transmute(_mm512_cvtne2ps_pbh(odd.0, even.0));
                let order = _mm512_set_epi16(
                    31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                    18, 2, 17, 1, 16, 0,
                );
                _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, rounded));
            }
        }
        #[inline(always)]
        fn store_rows(even: Self, odd: Self, to_even: &mut [bf16; LANES], to_odd: &mut [bf16; LANES]) {
            unsafe {
                let rounded: __m512i = transmute(_mm512_cvtne2ps_pbh(odd.0, even.0));
                _mm256_storeu_si256(to_even.as_mut_ptr().cast(), _mm512_castsi512_si256(rounded));
                _mm256_storeu_si256(to_odd.as_mut_ptr().cast(), _mm512_extracti64x4_epi64::<1>(rounded));
            }
        }
        #[inline(always)]
        fn add_pairs(self, a: [bf16; 2], b: &[bf16; 2 * LANES]) -> Self {
            unsafe {
                let a = _mm512_set1_epi32(transmute::<[bf16; 2], i32>(a));
                let b = _mm512_loadu_si512(b.as_ptr().cast());
                Self(_mm512_dpbf16_ps(
                    self.0,
                    transmute::<__m512i, __m512bh>(a),
                    transmute::<__m512i, __m512bh>(b),
                ))
            }
        }
    }
}
