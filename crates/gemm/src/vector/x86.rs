//! Lanes as one AVX-512 register or two AVX2 registers.
//!
//! The methods are inlined into [`run_avx512`] and [`run_avx2`], where the instructions are allowed.
#![allow(unsafe_code)]
#![allow(clippy::wildcard_imports, reason = "one name an instruction")]

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::{Add, Div, Mul, Sub};

use half::bf16;

use super::Kernel;
use super::lanes::{LANES, Lanes, Sealed};

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL, and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512<false>>()
}

/// # Safety
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// Named only where AVX-512 was detected, with `BF16` only where its bf16 instructions were.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(pub(crate) __m512);

/// Named only where AVX2 was detected.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(crate) __m256, pub(crate) __m256);

impl<const BF16: bool> Sealed for Avx512<BF16> {}
impl Sealed for Avx2 {}

macro_rules! operator {
    ($trait:ident, $method:ident, $wide:ident, $narrow:ident) => {
        impl<const BF16: bool> $trait for Avx512<BF16> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { $wide(self.0, other.0) })
            }
        }
        impl $trait for Avx2 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: see the type.
                unsafe { Self($narrow(self.0, other.0), $narrow(self.1, other.1)) }
            }
        }
    };
}
operator!(Add, add, _mm512_add_ps, _mm256_add_ps);
operator!(Sub, sub, _mm512_sub_ps, _mm256_sub_ps);
operator!(Mul, mul, _mm512_mul_ps, _mm256_mul_ps);
operator!(Div, div, _mm512_div_ps, _mm256_div_ps);

impl<const BF16: bool> Avx512<BF16> {
    /// The upper halves, rounded, in the lower 16 bits of each lane.
    #[inline(always)]
    pub(crate) fn bf16_bits(self) -> __m512i {
        // SAFETY: see the type.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let upper = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40))
        }
    }
}

// SAFETY of every block below: see the type; references to arrays of sixteen cover what is read and written.
impl<const BF16: bool> Lanes for Avx512<BF16> {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // No intrinsic: with debug assertions it is too large to be inlined everywhere.
        Self(unsafe { transmute::<[f32; LANES], __m512>(*from) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = unsafe { transmute::<__m512, [f32; LANES]>(self.0) };
    }
    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
        }
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; LANES]) {
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(self.bf16_bits()));
        }
    }
    #[inline(always)]
    fn round_to_bf16(self) -> Self {
        Self(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(self.bf16_bits())) })
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        // The second operand is the result where one is NaN.
        Self(unsafe { _mm512_max_ps(low.0, self.0) })
    }
    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        Self(unsafe { _mm512_min_ps(high.0, self.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn ldexp(self, n: Self) -> Self {
        Self(unsafe { _mm512_scalef_ps(self.0, n.0) })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

/// # Safety
/// Eight numbers lie there.
#[inline(always)]
unsafe fn widen(from: *const bf16) -> __m256 {
    // SAFETY: called on what `Avx2` loads.
    unsafe {
        let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    }
}

/// `x · 2^n`, by two powers that f32 can hold.
#[inline(always)]
fn scale(x: __m256, n: __m256) -> __m256 {
    // SAFETY: called on what `Avx2` holds.
    unsafe {
        let n = _mm256_cvtps_epi32(n);
        let half = _mm256_srai_epi32::<1>(n);
        let rest = _mm256_sub_epi32(n, half);
        _mm256_mul_ps(_mm256_mul_ps(x, power(half)), power(rest))
    }
}

/// `2^n` for whole `n` from -126 to 127.
#[inline(always)]
fn power(n: __m256i) -> __m256 {
    // SAFETY: called on what `Avx2` holds.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))) }
}

/// The upper halves, rounded, in the lower 16 bits of each lane.
#[inline(always)]
pub(crate) fn bf16_bits(x: __m256) -> __m256i {
    // SAFETY: called on what `Avx2` holds.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let upper = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
        let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan)
    }
}

// SAFETY of every block below: see the type; references to arrays of sixteen cover what is read and written.
impl Lanes for Avx2 {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        let [low, high] = unsafe { transmute::<[f32; LANES], [__m256; 2]>(*from) };
        Self(low, high)
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = unsafe { transmute::<[__m256; 2], [f32; LANES]>([self.0, self.1]) };
    }
    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        unsafe { Self(widen(from.as_ptr()), widen(from.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; LANES]) {
        unsafe {
            // `packus` interleaves the 128-bit halves; the permutation puts them in order.
            let packed = _mm256_packus_epi32(bf16_bits(self.0), bf16_bits(self.1));
            _mm256_storeu_si256(
                to.as_mut_ptr().cast(),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(packed),
            );
        }
    }
    #[inline(always)]
    fn round_to_bf16(self) -> Self {
        unsafe {
            Self(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bf16_bits(self.0))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bf16_bits(self.1))),
            )
        }
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        // The second operand is the result where one is NaN.
        unsafe { Self(_mm256_max_ps(low.0, self.0), _mm256_max_ps(low.1, self.1)) }
    }
    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        unsafe { Self(_mm256_min_ps(high.0, self.0), _mm256_min_ps(high.1, self.1)) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        unsafe { Self(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }
    #[inline(always)]
    fn ldexp(self, n: Self) -> Self {
        Self(scale(self.0, n.0), scale(self.1, n.1))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
