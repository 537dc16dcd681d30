//! Whole blocks with 512-bit registers.
//!
//! The way to a 4-bit code: NF4's bounds lie so far apart that a number has one bound to be compared with, the one of its
//! cell; FP4's are searched by halves. The way back is one permutation of the sixteen products `level · c`, which are made
//! once a block. No step rounds otherwise than [`super::reference`].
#![allow(unsafe_code)]
#![allow(clippy::wildcard_imports, reason = "one name an instruction")]

use std::arch::x86_64::*;

use super::levels::{Cells, Levels};
use super::reference::{PER_STEP, at_least, steps_per_one};
use super::{Number, Scheme};

/// # Safety
/// AVX-512 F, BW, DQ and VL; `block` is a multiple of 32, and the slices hold whole blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn quantise<T: Number>(
    scheme: Scheme,
    block: usize,
    values: &[T],
    codes: &mut [u8],
    absmax: &mut [f32],
) {
    let levels = Levels::of(scheme);
    let (search, order) = (Search::new(levels), order_of(levels));
    let blocks = values.chunks_exact(block).zip(absmax);
    for ((values, absmax), codes) in blocks.zip(codes.chunks_exact_mut(scheme.num_bytes(block))) {
        // SAFETY: groups of 32 numbers lie inside the block.
        *absmax = unsafe { largest(values) };
        if scheme == Scheme::Int8 {
            let steps = _mm512_set1_ps(steps_per_one(*absmax));
            for (values, codes) in values.chunks_exact(16).zip(codes.chunks_exact_mut(16)) {
                // SAFETY: sixteen numbers and sixteen codes.
                unsafe {
                    let scaled = _mm512_mul_ps(T::load16(values.as_ptr()), steps);
                    let rounded = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled));
                    _mm_storeu_si128(codes.as_mut_ptr().cast(), rounded);
                }
            }
            continue;
        }
        let inverse = _mm512_set1_ps(1.0 / at_least(*absmax));
        for (values, codes) in values.chunks_exact(32).zip(codes.chunks_exact_mut(16)) {
            // SAFETY: 32 numbers and 16 bytes of codes.
            unsafe {
                let (even, odd) = T::load_pairs(values.as_ptr());
                let (even, odd) = (_mm512_mul_ps(even, inverse), _mm512_mul_ps(odd, inverse));
                let (mut even, mut odd) = match &search {
                    Search::Cells(cells) => (cells.rank(even), cells.rank(odd)),
                    Search::Halves(halves) => (halves.rank(even), halves.rank(odd)),
                };
                if scheme == Scheme::Fp4 {
                    (even, odd) = (
                        _mm512_permutexvar_epi32(even, order),
                        _mm512_permutexvar_epi32(odd, order),
                    );
                }
                let pairs = _mm512_or_si512(_mm512_slli_epi32::<4>(even), odd);
                _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(pairs));
            }
        }
    }
}

/// # Safety
/// As [`quantise`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn dequantise<T: Number>(
    scheme: Scheme,
    block: usize,
    codes: &[u8],
    absmax: &[f32],
    values: &mut [T],
) {
    // SAFETY: sixteen levels.
    let levels = unsafe { _mm512_loadu_ps(Levels::of(scheme).values.as_ptr()) };
    let blocks = codes.chunks_exact(scheme.num_bytes(block)).zip(absmax);
    for ((codes, absmax), values) in blocks.zip(values.chunks_exact_mut(block)) {
        let scale = _mm512_set1_ps(*absmax);
        if scheme == Scheme::Int8 {
            for (values, codes) in values.chunks_exact_mut(16).zip(codes.chunks_exact(16)) {
                // SAFETY: sixteen codes and sixteen numbers.
                unsafe {
                    let steps = _mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(steps), scale);
                    store16(_mm512_mul_ps(scaled, _mm512_set1_ps(PER_STEP)), values);
                }
            }
            continue;
        }
        let products = _mm512_mul_ps(levels, scale);
        let narrow = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(bf16_bits(products)));
        for (values, codes) in values.chunks_exact_mut(32).zip(codes.chunks_exact(16)) {
            // SAFETY: 16 bytes of codes and 32 numbers.
            unsafe {
                let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(codes.as_ptr().cast()));
                // The high nibble, of the even element, goes first.
                let both = _mm256_or_si256(_mm256_srli_epi16::<4>(bytes), _mm256_slli_epi16::<8>(bytes));
                let found = _mm256_and_si256(both, _mm256_set1_epi8(15));
                if T::IS_BF16 {
                    let found = _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(found), narrow);
                    _mm512_storeu_si512(values.as_mut_ptr().cast(), found);
                } else {
                    let low = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(found));
                    let high = _mm512_cvtepu8_epi32(_mm256_extracti128_si256::<1>(found));
                    let to = values.as_mut_ptr().cast::<f32>();
                    _mm512_storeu_ps(to, _mm512_permutexvar_ps(low, products));
                    _mm512_storeu_ps(to.add(16), _mm512_permutexvar_ps(high, products));
                }
            }
        }
    }
}

/// How a number's rank among the levels is found: how many bounds lie below it.
///
/// Numbers that rounding left beyond ±1 have the first or last rank, as if they had been clamped.
enum Search {
    Cells(CellSearch),
    Halves(HalfSearch),
}

/// One comparison, with the bound of the number's cell.
struct CellSearch {
    below: [__m512i; 2],
    bound: [__m512; 2],
}

/// Four comparisons; each step's bounds lie where the rank so far points.
struct HalfSearch {
    steps: [__m512; 4],
}

impl Search {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn new(levels: &Levels) -> Self {
        // SAFETY: sixteen entries each.
        unsafe {
            if let Some(cells) = &levels.cells {
                let (below, bound) = (cells.below.as_ptr(), cells.bound.as_ptr());
                return Self::Cells(CellSearch {
                    below: [
                        _mm512_loadu_si512(below.cast()),
                        _mm512_loadu_si512(below.add(16).cast()),
                    ],
                    bound: [_mm512_loadu_ps(bound), _mm512_loadu_ps(bound.add(16))],
                });
            }
            let bounds = _mm512_loadu_ps(levels.bounds.as_ptr());
            let places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let ahead = |by| _mm512_permutexvar_ps(_mm512_add_epi32(places, _mm512_set1_epi32(by)), bounds);
            Self::Halves(HalfSearch {
                steps: [ahead(7), ahead(3), ahead(1), bounds],
            })
        }
    }
}

impl CellSearch {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn rank(&self, x: __m512) -> __m512i {
        let place = _mm512_fmadd_ps(x, _mm512_set1_ps(Cells::SCALE), _mm512_set1_ps(Cells::SHIFT));
        let cell = _mm512_cvttps_epi32(place);
        let below = _mm512_permutex2var_epi32(self.below[0], cell, self.below[1]);
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_permutex2var_ps(self.bound[0], cell, self.bound[1]));
        _mm512_mask_add_epi32(below, above, below, _mm512_set1_epi32(1))
    }
}

impl HalfSearch {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn rank(&self, x: __m512) -> __m512i {
        let mut rank = _mm512_setzero_si512();
        for (bounds, step) in self.steps.iter().zip([8, 4, 2, 1]) {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_permutexvar_ps(rank, *bounds));
            rank = _mm512_mask_add_epi32(rank, above, rank, _mm512_set1_epi32(step));
        }
        rank
    }
}

/// Rank to code, as 32-bit lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn order_of(levels: &Levels) -> __m512i {
    // SAFETY: sixteen bytes.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(levels.order.as_ptr().cast()) })
}

/// The largest magnitude, by its bits.
///
/// # Safety
/// A multiple of 32 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
unsafe fn largest<T: Number>(values: &[T]) -> f32 {
    if T::IS_BF16 {
        let mut largest = _mm512_setzero_si512();
        for values in values.chunks_exact(32) {
            // SAFETY: 32 numbers of 16 bits.
            let x = unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
            largest = _mm512_max_epu16(largest, _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)));
        }
        let half = _mm256_max_epu16(_mm512_castsi512_si256(largest), _mm512_extracti64x4_epi64::<1>(largest));
        let quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
        // The machine finds the least of eight: of the complements.
        let least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
        return f32::from_bits(u32::from(!(_mm_extract_epi16::<0>(least) as u16)) << 16);
    }
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let (mut a, mut b) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for values in values.chunks_exact(32) {
        // SAFETY: 32 numbers.
        let (x, y) = unsafe { (T::load16(values.as_ptr()), T::load16(values.as_ptr().add(16))) };
        a = _mm512_max_epu32(a, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
        b = _mm512_max_epu32(b, _mm512_and_si512(_mm512_castps_si512(y), magnitude));
    }
    f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(a, b)))
}

/// Each number rounded to bf16, in the lower 16 bits of its lane. Numbers here are finite.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn bf16_bits(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half))
}

/// Writes sixteen numbers.
///
/// # Safety
/// `values` has sixteen.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
unsafe fn store16<T: Number>(x: __m512, values: &mut [T]) {
    // SAFETY: the caller's.
    unsafe {
        if T::IS_BF16 {
            _mm256_storeu_si256(values.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(bf16_bits(x)));
        } else {
            _mm512_storeu_ps(values.as_mut_ptr().cast(), x);
        }
    }
}
