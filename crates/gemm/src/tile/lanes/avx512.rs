//! Lanes around tiles as one AVX-512 register; without the bf16 instructions, bf16 is widened.
#![allow(unsafe_code)]
#![allow(clippy::wildcard_imports, reason = "one name an instruction")]

use std::arch::x86_64::*;
use std::mem::transmute;

use half::bf16;

use super::TileLanes;
use crate::tile::{LANES, TileKernel, Tiles};
use crate::vector::{Avx512, Lanes};

/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and BF16, and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(in crate::tile) unsafe fn run_avx512_bf16(kernel: impl TileKernel, tiles: &Tiles) {
    kernel.run::<Avx512<true>>(tiles);
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL, and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(in crate::tile) unsafe fn run_avx512(kernel: impl TileKernel, tiles: &Tiles) {
    kernel.run::<Avx512<false>>(tiles);
}

/// The even and the odd numbers of pairs, as f32.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn widen(pairs: __m512i) -> [__m512; 2] {
    // SAFETY: the caller's.
    unsafe {
        [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32))),
        ]
    }
}

// SAFETY of every block below: inlined into the functions above alone; references to arrays cover what is touched.
impl<const BF16: bool> TileLanes for Avx512<BF16> {
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        // Within 128 bits first, then the 128-bit parts.
        let mut quads = [rows[0].0; LANES];
        for (quad, row) in quads.iter_mut().zip(rows) {
            *quad = row.0;
        }
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
            let pairs = if BF16 {
                let rounded: __m512i = transmute(_mm512_cvtne2ps_pbh(odd.0, even.0));
                let order = _mm512_set_epi16(
                    31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                    18, 2, 17, 1, 16, 0,
                );
                _mm512_permutexvar_epi16(order, rounded)
            } else {
                _mm512_or_si512(even.bf16_bits(), _mm512_slli_epi32::<16>(odd.bf16_bits()))
            };
            *to = transmute::<__m512i, [bf16; 2 * LANES]>(pairs);
        }
    }
    #[inline(always)]
    fn store_rows(even: Self, odd: Self, to_even: &mut [bf16; LANES], to_odd: &mut [bf16; LANES]) {
        if BF16 {
            unsafe {
                let rounded: __m512i = transmute(_mm512_cvtne2ps_pbh(odd.0, even.0));
                _mm256_storeu_si256(to_even.as_mut_ptr().cast(), _mm512_castsi512_si256(rounded));
                _mm256_storeu_si256(to_odd.as_mut_ptr().cast(), _mm512_extracti64x4_epi64::<1>(rounded));
            }
        } else {
            even.store_bf16(to_even);
            odd.store_bf16(to_odd);
        }
    }
    #[inline(always)]
    fn add_pairs(self, a: [bf16; 2], pairs: Self) -> Self {
        unsafe {
            let a = _mm512_set1_epi32(transmute::<[bf16; 2], i32>(a));
            if BF16 {
                return Self(_mm512_dpbf16_ps(
                    self.0,
                    transmute::<__m512i, __m512bh>(a),
                    transmute::<__m512, __m512bh>(pairs.0),
                ));
            }
            let ([a_even, a_odd], [even, odd]) = (widen(a), widen(_mm512_castps_si512(pairs.0)));
            Self(_mm512_fmadd_ps(a_odd, odd, _mm512_fmadd_ps(a_even, even, self.0)))
        }
    }
}
