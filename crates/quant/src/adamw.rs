//! `AdamW` whose running means are held in 8 bits: the dynamic map, an absmax for each block of 256.
//!
//! A block's means are dequantised, moved as `AdamW` moves them (arXiv:1711.05101, algorithm 2), used, and quantised again.
//! The mean of gradients takes the signed map, that of squares the unsigned one.
//!
//! Source: Dettmers et al. 2022, arXiv:2110.02861, in the block size and arithmetic of bitsandbytes 0.50. Deviation: none.
//!
//! ```
//! use quant::adamw::{EightBits, Step, adamw};
//!
//! let (mut value, gradient) = ([1.0f32, 1.0], [0.5f32, -2.0]);
//! let (mut mean, mut square) = (EightBits::zeros(2), EightBits::zeros(2));
//! let step = Step { number: 1, learning_rate: 0.1, weight_decay: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, gradient_scale: 1.0 };
//! adamw(&mut value, &gradient, mean.parts(), square.parts(), &step);
//! // The first step goes by the learning rate, whatever the gradient's size.
//! assert!((value[0] - 0.9).abs() < 1e-6 && (value[1] - 1.1).abs() < 1e-6);
//! ```

use tch::Tensor;
use tensor_core::{blob, parallel};

use crate::codec::{DynamicMap, NESTED_BLOCK};

/// Parameters with fewer numbers keep their running means in f32, as in bitsandbytes: they are few, and norms among them.
pub const LEAST_NUMBERS: usize = 4096;
/// Blocks that a thread takes at a time.
const AT_ONCE: usize = 16 * NESTED_BLOCK;

/// One parameter's update.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Which update of this parameter it is, from 1.
    pub number: u64,
    /// η, already scheduled.
    pub learning_rate: f64,
    /// λ, decoupled.
    pub weight_decay: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squares.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// What gradients are multiplied by on their way in.
    pub gradient_scale: f64,
}

/// A running mean in 8 bits, in plain vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct EightBits {
    /// One a number.
    pub codes: Vec<u8>,
    /// One a block.
    pub absmax: Vec<f32>,
}

/// A running mean in 8 bits, wherever it lies.
#[derive(Debug)]
pub struct Parts<'a> {
    /// One a number.
    pub codes: &'a mut [u8],
    /// One for 256 numbers, the last block perhaps shorter.
    pub absmax: &'a mut [f32],
}

impl Parts<'_> {
    /// What a thread takes at a time.
    fn pieces(self) -> impl Iterator<Item = Self> {
        let absmax = self.absmax.chunks_mut(AT_ONCE / NESTED_BLOCK);
        let both = self.codes.chunks_mut(AT_ONCE).zip(absmax);
        both.map(|(codes, absmax)| Parts { codes, absmax })
    }
}

impl EightBits {
    /// As before the first update. An absmax of 0 makes any code stand for 0.
    pub fn zeros(numbers: usize) -> Self {
        Self {
            codes: vec![0; numbers],
            absmax: vec![0.0; numbers.div_ceil(NESTED_BLOCK)],
        }
    }

    /// Borrowed.
    pub fn parts(&mut self) -> Parts<'_> {
        Parts {
            codes: &mut self.codes,
            absmax: &mut self.absmax,
        }
    }
}

/// Moves `value` by its gradient, on all of libtorch's threads; `mean` and `square` are written in place.
///
/// # Panics
/// If the lengths do not fit together.
pub fn adamw(value: &mut [f32], gradient: &[f32], mean: Parts, square: Parts, step: &Step) {
    let numbers = value.len();
    assert_eq!(gradient.len(), numbers, "a gradient a number");
    for state in [&mean, &square] {
        assert_eq!(state.codes.len(), numbers, "a code a number");
        assert_eq!(state.absmax.len(), numbers.div_ceil(NESTED_BLOCK), "an absmax a block");
    }
    let factors = Factors::new(step);
    let states = mean.pieces().zip(square.pieces());
    let numbers = value.chunks_mut(AT_ONCE).zip(gradient.chunks(AT_ONCE));
    let mut pieces: Vec<_> = numbers.zip(states).collect();
    parallel::for_each_chunk(&mut pieces, 1, |pieces| {
        for ((value, gradient), (mean, square)) in pieces {
            factors.move_blocks(value, gradient, mean, square);
        }
    });
}

/// As [`adamw`] over CPU tensors, written in place: each state is its codes (u8) and absmax (f32).
///
/// # Panics
/// If dtypes or sizes do not fit together, a tensor is not contiguous or not on the CPU, or two share memory.
pub fn adamw_tensors(value: &Tensor, gradient: &Tensor, [mean, square]: [[&Tensor; 2]; 2], step: &Step) {
    let written = [value, mean[0], mean[1], square[0], square[1]].map(blob::span);
    assert!(
        blob::are_apart(written.into(), vec![blob::span(gradient)]),
        "a parameter, its gradient and its states share no memory"
    );
    // SAFETY: what is written shares no memory with anything else here, as was checked, and nothing else runs.
    #[allow(unsafe_code)]
    unsafe {
        let [mean, square] = [mean, square].map(|[codes, absmax]| Parts {
            codes: blob::slice_mut_shared(codes),
            absmax: blob::slice_mut_shared(absmax),
        });
        adamw(blob::slice_mut_shared(value), blob::slice(gradient), mean, square, step);
    }
}

/// The step's constants.
struct Factors {
    gradient_scale: f32,
    decay: f32,
    beta1: f32,
    toward_gradient: f32,
    beta2: f32,
    toward_square: f32,
    root_correction: f32,
    eps: f32,
    step_size: f32,
}

impl Factors {
    fn new(step: &Step) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step.number as f64);
        Self {
            gradient_scale: step.gradient_scale as f32,
            decay: (1.0 - step.learning_rate * step.weight_decay) as f32,
            beta1: step.beta1 as f32,
            toward_gradient: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            toward_square: (1.0 - step.beta2) as f32,
            root_correction: correction(step.beta2).sqrt() as f32,
            eps: step.eps as f32,
            step_size: (step.learning_rate / correction(step.beta1)) as f32,
        }
    }

    fn move_blocks(&self, value: &mut [f32], gradient: &[f32], mean: &mut Parts, square: &mut Parts) {
        let (signed, unsigned) = (DynamicMap::signed(), DynamicMap::unsigned());
        let (mut m, mut v) = ([0.0f32; NESTED_BLOCK], [0.0f32; NESTED_BLOCK]);
        let blocks = value.chunks_mut(NESTED_BLOCK).zip(gradient.chunks(NESTED_BLOCK));
        let means = mean.codes.chunks_mut(NESTED_BLOCK).zip(mean.absmax.chunks_mut(1));
        let squares = square.codes.chunks_mut(NESTED_BLOCK).zip(square.absmax.chunks_mut(1));
        for ((value, gradient), ((m_codes, m_absmax), (v_codes, v_absmax))) in blocks.zip(means.zip(squares)) {
            let (m, v) = (&mut m[..value.len()], &mut v[..value.len()]);
            signed.dequantise(m_codes, m_absmax, m);
            unsigned.dequantise(v_codes, v_absmax, v);
            for (((x, g), m), v) in value.iter_mut().zip(gradient).zip(m.iter_mut()).zip(v.iter_mut()) {
                let g = g * self.gradient_scale;
                *m = g.mul_add(self.toward_gradient, *m * self.beta1);
                *v = *v * self.beta2 + self.toward_square * g * g;
                let root = v.sqrt() / self.root_correction + self.eps;
                *x = *x * self.decay - self.step_size * (*m / root);
            }
            signed.quantise(m, m_codes, m_absmax);
            unsigned.quantise(v, v_codes, v_absmax);
        }
    }
}
