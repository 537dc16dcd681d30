//! Few tokens times a packed matrix on the CPU: rows of Ŵ are dequantised into the cache and multiplied there.
//!
//! With one token the product reads each weight once, so that its time is the memory's: half a byte a weight instead of
//! the two of bf16. Shapes: t tokens, in and out widths; x `[t, in]`, Ŵ `[out, in]`.

use half::bf16;
use tch::{Device, Kind, Tensor};
use tensor_core::blob;
use tensor_core::gemm::vector::Scalar as _;
use tensor_core::parallel::{self, Shared};
use tensor_core::vector::{Kernel, LANES, Lanes, Scalar, dispatch};

use crate::QuantizedWeight;
use crate::codec;

/// Tokens up to which dequantising into the cache is faster than a matrix product with the whole of Ŵ.
const MOST: i64 = 2;
/// Numbers of Ŵ that a thread dequantises at a time: a part of its first-level cache.
const AT_ONCE: usize = 4096;

/// `x Ŵᵀ`: `[t, out]` in the dtype of x; none if x has more than a few rows, or lies elsewhere.
///
/// # Panics
/// If x is not as wide as the matrix.
pub(crate) fn product(x: &Tensor, weight: &QuantizedWeight) -> Option<Tensor> {
    let (tokens, width) = x.size2().ok()?;
    let suits = x.device() == Device::Cpu && matches!(x.kind(), Kind::Float | Kind::BFloat16);
    if !suits || tokens == 0 || tokens > MOST {
        return None;
    }
    assert_eq!(
        width,
        weight.shape[1],
        "an input {:?} does not fit a packed matrix {:?}",
        x.size(),
        weight.shape
    );
    let [out, input] = weight.shape.map(|side| side as usize);
    if out == 0 || input == 0 {
        return None;
    }
    let mut y = Tensor::empty([tokens, out as i64], (x.kind(), Device::Cpu));
    let rows = x.to_kind(Kind::Float).contiguous();
    let rows = blob::to_vec::<f32>(&rows);
    let x: Vec<&[f32]> = rows.chunks_exact(input).collect();
    match y.kind() {
        Kind::Float => fill(&x, weight, &Shared::new(blob::slice_mut::<f32>(&mut y))),
        _ => fill(&x, weight, &Shared::new(blob::slice_mut::<bf16>(&mut y))),
    }
    Some(y)
}

/// Writes every product of a row of `x` with a row of the matrix.
fn fill<T: Scalar>(x: &[&[f32]], weight: &QuantizedWeight, y: &Shared<T>) {
    let [out, input] = weight.shape.map(|side| side as usize);
    // SAFETY: the result is memory of its own, and nothing else is written.
    #[allow(unsafe_code)]
    let (codes, scales) = unsafe { weight.on_cpu() };
    let (scheme, block) = (weight.scheme, weight.block);
    let step = (AT_ONCE / input.max(1)).max(1);
    parallel::for_each_range(out.div_ceil(step), 8, |range| {
        let mut scratch = Vec::new();
        for part in range {
            let rows = part * step..out.min((part + 1) * step);
            let numbers = rows.start * input..rows.end * input;
            // A row that begins inside a block is read from the block's begin.
            let begin = numbers.start / block.get() * block.get();
            scratch.resize(numbers.end - begin, 0.0f32);
            codec::dequantise_range(scheme, block, codes, &scales, begin..numbers.end, &mut scratch);
            let matrix = scratch[numbers.start - begin..].chunks_exact(input);
            for (row, w) in rows.zip(matrix) {
                for (token, x) in x.iter().enumerate() {
                    let product = T::from_f32(dispatch(Dot(x, w)));
                    let at = token * out + row;
                    // SAFETY: each token and row are met once.
                    #[allow(unsafe_code)]
                    let y = unsafe { y.part(at..at + 1) };
                    y[0] = product;
                }
            }
        }
    });
}

/// The sum of products of two rows of one length.
struct Dot<'a>(&'a [f32], &'a [f32]);

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        const STEP: usize = 4 * LANES;
        assert_eq!(self.0.len(), self.1.len(), "rows of one length");
        let (x, x_rest) = self.0.as_chunks::<STEP>();
        let (w, w_rest) = self.1.as_chunks::<STEP>();
        let part = |x: &[f32], w: &[f32], at: usize, sum: L| f32::read::<L>(x, at).mul_add(f32::read::<L>(w, at), sum);
        // Four sums by name: the processor adds into one while the others are on their way.
        let zero = L::splat(0.0);
        let (mut a, mut b, mut c, mut d) = (zero, zero, zero, zero);
        for (x, w) in x.iter().zip(w) {
            a = part(x, w, 0, a);
            b = part(x, w, LANES, b);
            c = part(x, w, 2 * LANES, c);
            d = part(x, w, 3 * LANES, d);
        }
        for at in (0..x_rest.len()).step_by(LANES) {
            a = part(x_rest, w_rest, at, a);
        }
        ((a + b) + (c + d)).sum()
    }
}
