//! The numbers that are quantised: f32 and bf16, widened to f32 on the way in and rounded once on the way out.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_slli_epi32, _mm512_add_epi32, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_permutex2var_ps, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_slli_epi32,
};

use half::bf16;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// A number that the codecs read and write.
pub trait Number: sealed::Sealed + Copy + Send + Sync + 'static {
    /// Exactly.
    fn widen(self) -> f32;

    /// Rounded to the nearest, ties to even.
    fn narrow(value: f32) -> Self;

    /// Whether this is bf16: the writers of wide registers ask.
    #[doc(hidden)]
    const IS_BF16: bool;

    /// Sixteen of them.
    ///
    /// # Safety
    /// AVX-512 F, and sixteen numbers at `from`.
    #[doc(hidden)]
    #[cfg(target_arch = "x86_64")]
    unsafe fn load16(from: *const Self) -> __m512;

    /// 32 of them: those with even places and those with odd ones.
    ///
    /// # Safety
    /// AVX-512 F, and 32 numbers at `from`.
    #[doc(hidden)]
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_pairs(from: *const Self) -> (__m512, __m512);

    /// Eight of them.
    ///
    /// # Safety
    /// AVX2, and eight numbers at `from`.
    #[doc(hidden)]
    #[cfg(target_arch = "x86_64")]
    unsafe fn load8(from: *const Self) -> __m256;
}

impl Number for f32 {
    const IS_BF16: bool = false;

    fn widen(self) -> f32 {
        self
    }

    fn narrow(value: f32) -> Self {
        value
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load16(from: *const Self) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load_pairs(from: *const Self) -> (__m512, __m512) {
        // SAFETY: the caller's.
        let (a, b) = unsafe { (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))) };
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load8(from: *const Self) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(from) }
    }
}

impl Number for bf16 {
    const IS_BF16: bool = true;

    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load16(from: *const Self) -> __m512 {
        // SAFETY: the caller's.
        let bits = unsafe { _mm256_loadu_si256(from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load_pairs(from: *const Self) -> (__m512, __m512) {
        // SAFETY: the caller's.
        let both = unsafe { _mm512_loadu_si512(from.cast()) };
        // A pair is one 32-bit lane: each number's bits go, or stay, in the upper half.
        let odd = _mm512_and_si512(both, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
        (
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)),
            _mm512_castsi512_ps(odd),
        )
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load8(from: *const Self) -> __m256 {
        // SAFETY: the caller's.
        let bits = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }
}
