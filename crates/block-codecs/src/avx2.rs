//! Whole blocks with 256-bit registers: as [`super::avx512`], with the sixteen entries of a table in two halves.
#![allow(unsafe_code)]
#![allow(clippy::wildcard_imports, reason = "one name an instruction")]

use std::arch::x86_64::*;

use super::levels::Levels;
use super::reference::{PER_STEP, at_least, steps_per_one};
use super::{Number, Scheme};

/// # Safety
/// AVX2; `block` is a multiple of 32, and the slices hold whole blocks.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantise<T: Number>(
    scheme: Scheme,
    block: usize,
    values: &[T],
    codes: &mut [u8],
    absmax: &mut [f32],
) {
    let levels = Levels::of(scheme);
    let bounds = Bounds::new(&levels.bounds);
    // SAFETY: sixteen entries.
    let order = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(levels.order.as_ptr().cast())) };
    let blocks = values.chunks_exact(block).zip(absmax);
    for ((values, absmax), codes) in blocks.zip(codes.chunks_exact_mut(scheme.num_bytes(block))) {
        // SAFETY: groups of 32 numbers lie inside the block.
        *absmax = unsafe { largest(values) };
        let integers = scheme == Scheme::Int8;
        let factor = if integers {
            steps_per_one(*absmax)
        } else {
            1.0 / at_least(*absmax)
        };
        let factor = _mm256_set1_ps(factor);
        for (values, codes) in values
            .chunks_exact(32)
            .zip(codes.chunks_exact_mut(scheme.num_bytes(32)))
        {
            // SAFETY: 32 numbers, and 32 codes or 16 bytes of pairs.
            unsafe {
                let x = |idx: usize| _mm256_mul_ps(T::load8(values.as_ptr().add(8 * idx)), factor);
                let (a, b, c, d) = (x(0), x(1), x(2), x(3));
                if integers {
                    let (a, b) = (_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
                    let found = bytes([a, b, _mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d)]);
                    _mm256_storeu_si256(codes.as_mut_ptr().cast(), found);
                } else {
                    let found = bytes([bounds.rank(a), bounds.rank(b), bounds.rank(c), bounds.rank(d)]);
                    let found = _mm256_shuffle_epi8(order, found);
                    // Sixteen times the even code and the odd one.
                    let pairs = _mm256_maddubs_epi16(found, _mm256_set1_epi16(0x0110));
                    let packed = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi16(pairs, pairs));
                    _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
                }
            }
        }
    }
}

/// # Safety
/// As [`quantise`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dequantise<T: Number>(
    scheme: Scheme,
    block: usize,
    codes: &[u8],
    absmax: &[f32],
    values: &mut [T],
) {
    let levels = &Levels::of(scheme).values;
    let blocks = codes.chunks_exact(scheme.num_bytes(block)).zip(absmax);
    for ((codes, absmax), values) in blocks.zip(values.chunks_exact_mut(block)) {
        if scheme == Scheme::Int8 {
            for (values, codes) in values.chunks_exact_mut(8).zip(codes.chunks_exact(8)) {
                // SAFETY: eight codes and eight numbers.
                unsafe {
                    let steps = _mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.as_ptr().cast()));
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(steps), _mm256_set1_ps(*absmax));
                    store8(_mm256_mul_ps(scaled, _mm256_set1_ps(PER_STEP)), values);
                }
            }
            continue;
        }
        let table = Table::new(&levels.map(|level| level * absmax));
        for (values, codes) in values.chunks_exact_mut(32).zip(codes.chunks_exact(16)) {
            // SAFETY: 16 bytes of codes and 32 numbers.
            unsafe {
                let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(codes.as_ptr().cast()));
                // The high nibble, of the even element, goes first.
                let both = _mm256_or_si256(_mm256_srli_epi16::<4>(bytes), _mm256_slli_epi16::<8>(bytes));
                let found = _mm256_and_si256(both, _mm256_set1_epi8(15));
                if T::IS_BF16 {
                    table.write_bf16(found, values.as_mut_ptr().cast());
                } else {
                    table.write_f32(found, values.as_mut_ptr().cast());
                }
            }
        }
    }
}

/// The bounds in the order in which a binary search asks for them.
struct Bounds {
    middle: __m256,
    quarters: [__m256; 2],
    eighths: __m256,
    sixteenths: __m256,
}

impl Bounds {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(b: &[f32; 16]) -> Self {
        Self {
            middle: _mm256_set1_ps(b[7]),
            quarters: [_mm256_set1_ps(b[3]), _mm256_set1_ps(b[11])],
            eighths: _mm256_setr_ps(b[1], b[5], b[9], b[13], b[1], b[5], b[9], b[13]),
            sixteenths: _mm256_setr_ps(b[0], b[2], b[4], b[6], b[8], b[10], b[12], b[14]),
        }
    }

    /// How many bounds lie below each number; what rounding left beyond ±1 needs no clamping.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn rank(&self, x: __m256) -> __m256i {
        let above = |bound| _mm256_cmp_ps::<_CMP_GT_OQ>(x, bound);
        // A true lane is -1: taking it off doubles and adds one.
        let with =
            |rank: __m256i, bit: __m256| _mm256_sub_epi32(_mm256_add_epi32(rank, rank), _mm256_castps_si256(bit));
        let first = above(self.middle);
        let rank = with(_mm256_setzero_si256(), first);
        let rank = with(rank, above(_mm256_blendv_ps(self.quarters[0], self.quarters[1], first)));
        let rank = with(rank, above(_mm256_permutevar8x32_ps(self.eighths, rank)));
        with(rank, above(_mm256_permutevar8x32_ps(self.sixteenths, rank)))
    }
}

/// Sixteen products, to be found by index.
struct Table {
    /// As f32, eight and eight.
    wide: [__m256; 2],
    /// Their lower and upper bytes as bf16, in both lanes.
    narrow: [__m256i; 2],
}

impl Table {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(products: &[f32; 16]) -> Self {
        // SAFETY: sixteen entries each.
        unsafe {
            let wide = [
                _mm256_loadu_ps(products.as_ptr()),
                _mm256_loadu_ps(products.as_ptr().add(8)),
            ];
            let bits = _mm256_packus_epi32(bf16_bits(wide[0]), bf16_bits(wide[1]));
            let bits = _mm256_permute4x64_epi64::<0b11_01_10_00>(bits);
            let lower = _mm256_and_si256(bits, _mm256_set1_epi16(0xff));
            let upper = _mm256_srli_epi16::<8>(bits);
            // Each lane of `both` has eight lower and eight upper bytes.
            let both = _mm256_packus_epi16(lower, upper);
            let sorted = _mm256_permute4x64_epi64::<0b11_01_10_00>(both);
            Self {
                wide,
                narrow: [
                    _mm256_permute2x128_si256::<0x00>(sorted, sorted),
                    _mm256_permute2x128_si256::<0x11>(sorted, sorted),
                ],
            }
        }
    }

    /// The products at 32 indices, bytes.
    ///
    /// # Safety
    /// Room for 32 numbers at `to`.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn write_bf16(&self, found: __m256i, to: *mut __m256i) {
        let lower = _mm256_shuffle_epi8(self.narrow[0], found);
        let upper = _mm256_shuffle_epi8(self.narrow[1], found);
        let (a, b) = (_mm256_unpacklo_epi8(lower, upper), _mm256_unpackhi_epi8(lower, upper));
        // SAFETY: the caller's.
        unsafe {
            _mm256_storeu_si256(to, _mm256_permute2x128_si256::<0x20>(a, b));
            _mm256_storeu_si256(to.add(1), _mm256_permute2x128_si256::<0x31>(a, b));
        }
    }

    /// As [`Self::write_bf16`], in f32.
    ///
    /// # Safety
    /// As [`Self::write_bf16`].
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn write_f32(&self, found: __m256i, to: *mut f32) {
        let halves = [_mm256_castsi256_si128(found), _mm256_extracti128_si256::<1>(found)];
        for (idx, half) in halves.into_iter().enumerate() {
            for (part, bytes) in [half, _mm_srli_si128::<8>(half)].into_iter().enumerate() {
                let index = _mm256_cvtepu8_epi32(bytes);
                let low = _mm256_permutevar8x32_ps(self.wide[0], index);
                let high = _mm256_permutevar8x32_ps(self.wide[1], index);
                let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
                // SAFETY: the caller's.
                unsafe { _mm256_storeu_ps(to.add(16 * idx + 8 * part), _mm256_blendv_ps(low, high, is_high)) };
            }
        }
    }
}

/// 32 numbers from -128 to 127 as bytes, in order.
#[target_feature(enable = "avx2")]
#[inline]
fn bytes(x: [__m256i; 4]) -> __m256i {
    let (a, b) = (_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order)
}

/// The largest magnitude, by its bits.
///
/// # Safety
/// A multiple of 32 numbers.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn largest<T: Number>(values: &[T]) -> f32 {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut largest = [_mm256_setzero_si256(); 4];
    for values in values.chunks_exact(32) {
        for (idx, largest) in largest.iter_mut().enumerate() {
            // SAFETY: 32 numbers.
            let x = unsafe { T::load8(values.as_ptr().add(8 * idx)) };
            *largest = _mm256_max_epu32(*largest, _mm256_and_si256(_mm256_castps_si256(x), magnitude));
        }
    }
    let both = _mm256_max_epu32(
        _mm256_max_epu32(largest[0], largest[1]),
        _mm256_max_epu32(largest[2], largest[3]),
    );
    let mut lanes = [0u32; 8];
    // SAFETY: eight lanes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), both) };
    f32::from_bits(lanes.into_iter().fold(0, u32::max))
}

/// Each number rounded to bf16, in the lower 16 bits of its lane. Numbers here are finite.
#[target_feature(enable = "avx2")]
#[inline]
fn bf16_bits(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half))
}

/// Writes eight numbers.
///
/// # Safety
/// `values` has eight.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store8<T: Number>(x: __m256, values: &mut [T]) {
    // SAFETY: the caller's.
    unsafe {
        if T::IS_BF16 {
            let bits = bf16_bits(x);
            let packed = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi32(bits, bits));
            _mm_storeu_si128(values.as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
        } else {
            _mm256_storeu_ps(values.as_mut_ptr().cast(), x);
        }
    }
}
