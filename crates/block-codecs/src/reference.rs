//! The codecs in plain loops: what every faster path must equal, bit for bit.

use super::levels::Levels;
use super::{BlockSize, Number, Scheme};

/// As [`super::quantise`], on one thread; non-finite numbers make their block's absmax so.
pub fn quantise<T: Number>(scheme: Scheme, block: BlockSize, values: &[T], codes: &mut [u8], absmax: &mut [f32]) {
    let blocks = values
        .chunks(block.get())
        .zip(codes.chunks_mut(scheme.num_bytes(block.get())));
    for ((values, codes), absmax) in blocks.zip(absmax) {
        *absmax = if values.len() == block.get() {
            quantise_block(scheme, values, codes)
        } else {
            quantise_last(scheme, values, codes)
        };
    }
}

/// As [`super::dequantise`], on one thread.
pub fn dequantise<T: Number>(scheme: Scheme, block: BlockSize, codes: &[u8], absmax: &[f32], values: &mut [T]) {
    let blocks = values
        .chunks_mut(block.get())
        .zip(codes.chunks(scheme.num_bytes(block.get())));
    for ((values, codes), absmax) in blocks.zip(absmax) {
        dequantise_block(scheme, codes, *absmax, values);
    }
}

/// The codes of a whole block; returns its absmax.
pub(super) fn quantise_block<T: Number>(scheme: Scheme, values: &[T], codes: &mut [u8]) -> f32 {
    let absmax = absmax(values);
    match scheme {
        Scheme::Int8 => whole_numbers(values, absmax, codes),
        Scheme::Nf4 | Scheme::Fp4 | Scheme::Int4 => {
            let inverse = 1.0 / at_least(absmax);
            nibbles(scheme, values, codes, |x| x * inverse);
        }
    }
    absmax
}

/// The codes of a shorter last block; returns its absmax.
///
/// As bitsandbytes has it: numbers of a 4-bit block are divided here and multiplied by the inverse in whole blocks, and
/// the absmax of zeros is 1e-38.
pub(super) fn quantise_last<T: Number>(scheme: Scheme, values: &[T], codes: &mut [u8]) -> f32 {
    let absmax = absmax(values);
    match scheme {
        Scheme::Int8 => {
            whole_numbers(values, absmax, codes);
            absmax
        }
        Scheme::Nf4 | Scheme::Fp4 | Scheme::Int4 => {
            let absmax = at_least(absmax);
            nibbles(scheme, values, codes, |x| x / absmax);
            absmax
        }
    }
}

/// The numbers of one block, whole or last.
pub(super) fn dequantise_block<T: Number>(scheme: Scheme, codes: &[u8], absmax: f32, values: &mut [T]) {
    match scheme {
        Scheme::Int8 => {
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = T::narrow(f32::from(code.cast_signed()) * absmax * PER_STEP);
            }
        }
        Scheme::Nf4 | Scheme::Fp4 | Scheme::Int4 => {
            let levels = &Levels::of(scheme).values;
            for (pair, &code) in values.chunks_mut(2).zip(codes) {
                for (value, code) in pair.iter_mut().zip([code >> 4, code & 15]) {
                    *value = T::narrow(levels[code as usize] * absmax);
                }
            }
        }
    }
}

/// What an absmax is raised to before anything is divided by it; one that is no number stays so.
pub(super) fn at_least(absmax: f32) -> f32 {
    const SMALLEST: f32 = 1e-38;
    if absmax < SMALLEST { SMALLEST } else { absmax }
}

/// `1 / 127` in f32.
pub(super) const PER_STEP: f32 = 1.0 / 127.0;

/// `127 / absmax`; 0 where that is too large to be a number.
pub(super) fn steps_per_one(absmax: f32) -> f32 {
    let steps = 127.0 / absmax;
    if steps.is_finite() { steps } else { 0.0 }
}

/// The largest magnitude, by its bits: so a number that is not finite is largest.
fn absmax<T: Number>(values: &[T]) -> f32 {
    let magnitude = |x: &T| x.widen().to_bits() & 0x7fff_ffff;
    f32::from_bits(values.iter().map(magnitude).max().unwrap_or(0))
}

fn whole_numbers<T: Number>(values: &[T], absmax: f32, codes: &mut [u8]) {
    let steps = steps_per_one(absmax);
    for (code, x) in codes.iter_mut().zip(values) {
        *code = ((x.widen() * steps).round_ties_even() as i8).cast_unsigned();
    }
}

fn nibbles<T: Number>(scheme: Scheme, values: &[T], codes: &mut [u8], scale: impl Fn(f32) -> f32) {
    let levels = Levels::of(scheme);
    let code = |x: &T| levels.code(scale(x.widen()).clamp(-1.0, 1.0));
    // What is beyond the end has the code of 0.
    let none = levels.code(0.0);
    for (byte, pair) in codes.iter_mut().zip(values.chunks(2)) {
        *byte = code(&pair[0]) << 4 | pair.get(1).map_or(none, code);
    }
}
