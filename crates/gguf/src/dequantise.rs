//! The block formats, expanded row by row in parallel, number for number as llama.cpp's own Python package does.
//!
//! A block holds 32 or 256 numbers of a row: one or two f16 scales, small scales for its parts, and 4 to 8 bits a number.

use std::fmt;

use half::{bf16, f16};
use rayon::prelude::*;

/// How a GGUF tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "ggml's own names")]
pub enum GgufType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits, a scale for 32.
    Q4_0,
    /// 4 bits, scale and minimum for 32.
    Q4_1,
    /// 5 bits, a scale for 32.
    Q5_0,
    /// 5 bits, scale and minimum for 32.
    Q5_1,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 4 bits, 6-bit scales and minima for 32 in blocks of 256.
    Q4_K,
    /// 5 bits, 6-bit scales and minima for 32 in blocks of 256.
    Q5_K,
    /// 6 bits, 8-bit scales for 16 in blocks of 256.
    Q6_K,
}

use GgufType::{BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};

/// Type, ggml's number for it, numbers a block, bytes a block.
const TYPES: [(GgufType, u32, usize, usize); 11] = [
    (F32, 0, 1, 4),
    (F16, 1, 1, 2),
    (BF16, 30, 1, 2),
    (Q4_0, 2, 32, 18),
    (Q4_1, 3, 32, 20),
    (Q5_0, 6, 32, 22),
    (Q5_1, 7, 32, 24),
    (Q8_0, 8, 32, 34),
    (Q4_K, 12, 256, 144),
    (Q5_K, 13, 256, 176),
    (Q6_K, 14, 256, 210),
];

/// Names of types that exist and are not read, for messages.
const OTHERS: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl GgufType {
    /// The type of ggml's number, else what to call it.
    pub(crate) fn from_number(number: u32) -> Result<Self, String> {
        let known = TYPES.iter().find(|row| row.1 == number).map(|row| row.0);
        known.ok_or_else(|| {
            let name = OTHERS.iter().find(|row| row.0 == number).map(|row| row.1.to_owned());
            name.unwrap_or_else(|| number.to_string())
        })
    }

    /// The supported types' names.
    pub(crate) fn names() -> String {
        TYPES.map(|row| row.0.to_string()).join(", ")
    }

    /// Numbers and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        let row = TYPES
            .iter()
            .find(|row| row.0 == self)
            .expect("every type is in the table");
        (row.2, row.3)
    }
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A number that dequantised values are rounded to.
pub trait Number: Copy + Send + Sync {
    /// The nearest one.
    fn from_f32(value: f32) -> Self;
}

impl Number for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Number for bf16 {
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

/// Dequantises `bytes`, rows of `row` numbers, into `out`; row i of `out` is row `order[i]` of the file, all in order
/// if `order` is empty.
pub(crate) fn into<T: Number>(stored: GgufType, bytes: &[u8], row: usize, order: &[usize], out: &mut [T]) {
    if out.is_empty() {
        return;
    }
    let (block, width) = stored.block();
    let row_bytes = row / block * width;
    // Rows may be single numbers; tasks must not.
    let rows_a_task = (1usize << 14).div_ceil(row);
    out.par_chunks_mut(row * rows_a_task)
        .enumerate()
        .for_each(|(task, out)| {
            let mut values = [0f32; 256];
            for (idx, out) in out.chunks_mut(row).enumerate() {
                let idx = task * rows_a_task + idx;
                let from = order.get(idx).copied().unwrap_or(idx);
                let bytes = &bytes[from * row_bytes..(from + 1) * row_bytes];
                for (block_bytes, out) in bytes.chunks_exact(width).zip(out.chunks_mut(block)) {
                    let values = &mut values[..block];
                    expand(stored, block_bytes, values);
                    for (out, value) in out.iter_mut().zip(values) {
                        *out = T::from_f32(*value);
                    }
                }
            }
        });
}

fn expand(stored: GgufType, b: &[u8], out: &mut [f32]) {
    match stored {
        F32 => out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        F16 => out[0] = scale(b, 0),
        BF16 => out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        Q4_0 => nibbles(&b[2..], out, |q, _| scale(b, 0) * (f32::from(q) - 8.0)),
        Q4_1 => nibbles(&b[4..], out, |q, _| scale(b, 0) * f32::from(q) + scale(b, 2)),
        Q5_0 => {
            let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
            nibbles(&b[6..], out, |q, j| scale(b, 0) * (f32::from(fifth(q, high, j)) - 16.0));
        }
        Q5_1 => {
            let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
            nibbles(&b[8..], out, |q, j| {
                scale(b, 0) * f32::from(fifth(q, high, j)) + scale(b, 2)
            });
        }
        Q8_0 => {
            let d = scale(b, 0);
            for (out, q) in out.iter_mut().zip(&b[2..]) {
                *out = f32::from(q.cast_signed()) * d;
            }
        }
        Q4_K => groups(b, out, |idx, j| nibble(&b[16..], idx, j)),
        Q5_K => groups(b, out, |idx, j| nibble(&b[48..], idx, j) | (b[16 + j] >> idx & 1) << 4),
        Q6_K => six(b, out),
    }
}

/// The f16 at byte `at`.
fn scale(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// A block of 32: low nibbles are the first half, high nibbles the second.
fn nibbles(q: &[u8], out: &mut [f32], value: impl Fn(u8, usize) -> f32) {
    for j in 0..16 {
        out[j] = value(q[j] & 15, j);
        out[j + 16] = value(q[j] >> 4, j + 16);
    }
}

fn fifth(q: u8, high: u32, j: usize) -> u8 {
    q | ((high >> j & 1) as u8) << 4
}

/// The 4 low bits of number `j` of group `idx` of 32: two groups share 32 bytes.
fn nibble(q: &[u8], idx: usize, j: usize) -> u8 {
    let byte = q[idx / 2 * 32 + j];
    if idx.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}

/// `Q4_K` and `Q5_K`: 8 groups of 32 with 6-bit scales and minima, packed in the 12 bytes from byte 4.
fn groups(b: &[u8], out: &mut [f32], quant: impl Fn(usize, usize) -> u8) {
    let (d, d_min) = (scale(b, 0), scale(b, 2));
    let packed = &b[4..16];
    for idx in 0..8 {
        let (s, m) = if idx < 4 {
            (packed[idx] & 63, packed[idx + 4] & 63)
        } else {
            let shared = packed[idx + 4];
            (
                shared & 15 | packed[idx - 4] >> 6 << 4,
                shared >> 4 | packed[idx] >> 6 << 4,
            )
        };
        let (s, m) = (d * f32::from(s), d_min * f32::from(m));
        for j in 0..32 {
            out[idx * 32 + j] = s * f32::from(quant(idx, j)) - m;
        }
    }
}

/// `Q6_K`: two halves of 128; 4 low bits in 64 bytes, 2 high bits in 32, a signed scale for each 16.
fn six(b: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], scale(b, 208));
    for (idx, out) in out.iter_mut().enumerate() {
        let (half, part, j) = (idx / 128, idx / 32 % 4, idx % 32);
        let byte = low[half * 64 + part % 2 * 32 + j];
        let four = if part < 2 { byte & 15 } else { byte >> 4 };
        let two = high[half * 32 + j] >> (2 * part) & 3;
        let q = f32::from(four | two << 4) - 32.0;
        *out = d * f32::from(scales[idx / 16].cast_signed()) * q;
    }
}
