//! Lanes around tiles as two AVX2 registers; bf16 is widened.
#![allow(unsafe_code)]
#![allow(clippy::wildcard_imports, reason = "one name an instruction")]

use std::arch::x86_64::*;
use std::mem::transmute;

use half::bf16;

use super::TileLanes;
use crate::tile::{LANES, TileKernel, Tiles};
use crate::vector::{Avx2, Lanes, bf16_bits};

/// # Safety
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(in crate::tile) unsafe fn run_avx2(kernel: impl TileKernel, tiles: &Tiles) {
    kernel.run::<Avx2>(tiles);
}

/// Columns of eight rows of eight.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller's.
    unsafe {
        // Within 128 bits first, then the 128-bit parts.
        let mut quads = rows;
        for four in quads.chunks_exact_mut(4) {
            let low = _mm256_castps_pd(_mm256_unpacklo_ps(four[0], four[1]));
            let high = _mm256_castps_pd(_mm256_unpackhi_ps(four[0], four[1]));
            let low_next = _mm256_castps_pd(_mm256_unpacklo_ps(four[2], four[3]));
            let high_next = _mm256_castps_pd(_mm256_unpackhi_ps(four[2], four[3]));
            four[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, low_next));
            four[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, low_next));
            four[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high, high_next));
            four[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high, high_next));
        }
        let mut out = rows;
        for c in 0..4 {
            out[c] = _mm256_permute2f128_ps::<0x20>(quads[c], quads[4 + c]);
            out[4 + c] = _mm256_permute2f128_ps::<0x31>(quads[c], quads[4 + c]);
        }
        out
    }
}

/// Pairs of eight numbers each.
///
/// # Safety
/// AVX2, and eight numbers at both places.
#[inline(always)]
unsafe fn weave(even: *const bf16, odd: *const bf16) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let even = _mm256_cvtepu16_epi32(_mm_loadu_si128(even.cast()));
        let odd = _mm256_cvtepu16_epi32(_mm_loadu_si128(odd.cast()));
        _mm256_castsi256_ps(_mm256_or_si256(even, _mm256_slli_epi32::<16>(odd)))
    }
}

/// The even and the odd numbers of pairs, as f32.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn widen(pairs: __m256) -> [__m256; 2] {
    // SAFETY: the caller's.
    unsafe {
        let bits = _mm256_castps_si256(pairs);
        [
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)),
            _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32 as i32))),
        ]
    }
}

/// `x` where `first <= at <= last`, minus infinity elsewhere.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn between(x: __m256, at: __m256, first: __m256, last: __m256) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let inside = _mm256_and_ps(
            _mm256_cmp_ps::<_CMP_LE_OQ>(first, at),
            _mm256_cmp_ps::<_CMP_LE_OQ>(at, last),
        );
        _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), x, inside)
    }
}

// SAFETY of every block below: inlined into `run_avx2` alone; references to arrays cover what is touched.
impl TileLanes for Avx2 {
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let mut out = rows;
        for half in 0..2 {
            let mut left = [rows[0].0; 8];
            let mut right = left;
            for i in 0..8 {
                left[i] = rows[8 * half + i].0;
                right[i] = rows[8 * half + i].1;
            }
            let (left, right) = unsafe { (transpose(left), transpose(right)) };
            for i in 0..8 {
                if half == 0 {
                    out[i].0 = left[i];
                    out[8 + i].0 = right[i];
                } else {
                    out[i].1 = left[i];
                    out[8 + i].1 = right[i];
                }
            }
        }
        out
    }
    #[inline(always)]
    fn between(self, at: f32, first: Self, last: Self) -> Self {
        unsafe {
            let at = _mm256_set1_ps(at);
            Self(
                between(self.0, at, first.0, last.0),
                between(self.1, at, first.1, last.1),
            )
        }
    }
    #[inline(always)]
    fn same(self, other: Self) -> bool {
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0);
            let high = _mm256_cmp_ps::<_CMP_EQ_OQ>(self.1, other.1);
            _mm256_movemask_ps(_mm256_and_ps(low, high)) == 0xff
        }
    }
    #[inline(always)]
    fn weave(even: &[bf16; LANES], odd: &[bf16; LANES]) -> Self {
        unsafe {
            Self(
                weave(even.as_ptr(), odd.as_ptr()),
                weave(even.as_ptr().add(8), odd.as_ptr().add(8)),
            )
        }
    }
    #[inline(always)]
    fn store_pairs(even: Self, odd: Self, to: &mut [bf16; 2 * LANES]) {
        unsafe {
            let (low, high) = to.split_at_mut(LANES);
            for (to, even, odd) in [(low, even.0, odd.0), (high, even.1, odd.1)] {
                let pairs = _mm256_or_si256(bf16_bits(even), _mm256_slli_epi32::<16>(bf16_bits(odd)));
                _mm256_storeu_si256(to.as_mut_ptr().cast(), pairs);
            }
        }
    }
    #[inline(always)]
    fn store_rows(even: Self, odd: Self, to_even: &mut [bf16; LANES], to_odd: &mut [bf16; LANES]) {
        even.store_bf16(to_even);
        odd.store_bf16(to_odd);
    }
    #[inline(always)]
    fn add_pairs(self, a: [bf16; 2], pairs: Self) -> Self {
        unsafe {
            let [a_even, a_odd] = widen(_mm256_castsi256_ps(_mm256_set1_epi32(transmute::<[bf16; 2], i32>(a))));
            let ([low_even, low_odd], [high_even, high_odd]) = (widen(pairs.0), widen(pairs.1));
            Self(
                _mm256_fmadd_ps(a_odd, low_odd, _mm256_fmadd_ps(a_even, low_even, self.0)),
                _mm256_fmadd_ps(a_odd, high_odd, _mm256_fmadd_ps(a_even, high_even, self.1)),
            )
        }
    }
}
