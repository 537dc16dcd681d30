//! The optimiser's loops: all parameters cut into blocks, the blocks shared among threads.

use tensor_core::parallel::{self, Shared};

use super::{Moving, Step};
use tensor_core::gemm::vector::Scalar as _;
use tensor_core::vector::{Kernel, LANES, Lanes, dispatch};

/// Numbers of one block.
const BLOCK: usize = 1 << 14;

/// One parameter and its state.
pub(super) struct Slices<'a> {
    pub(super) value: &'a mut [f32],
    pub(super) gradient: &'a [f32],
    pub(super) first: &'a mut [f32],
    pub(super) second: &'a mut [f32],
    pub(super) factors: Factors,
}

/// The step's constants for one parameter.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    gradient_scale: f32,
    decay: f32,
    toward_gradient: f32,
    beta2: f32,
    toward_square: f32,
    root_correction: f32,
    eps: f32,
    step_size: f32,
}

impl Factors {
    pub(super) fn new(param: &Moving, step: &Step) -> Self {
        let correction1 = 1.0 - step.beta1.powf(step.number as f64);
        let correction2 = 1.0 - step.beta2.powf(step.number as f64);
        Self {
            gradient_scale: step.gradient_scale as f32,
            decay: (1.0 - param.learning_rate * param.weight_decay) as f32,
            toward_gradient: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            toward_square: (1.0 - step.beta2) as f32,
            root_correction: correction2.sqrt() as f32,
            eps: step.eps as f32,
            step_size: (param.learning_rate / correction1) as f32,
        }
    }
}

/// Moves every parameter.
pub(super) fn step(params: &mut [Slices]) {
    let blocks = blocks(params.iter().map(|param| param.value.len()));
    let shared: Vec<_> = params
        .iter_mut()
        .map(|param| {
            let written = (
                Shared::new(param.value),
                Shared::new(param.first),
                Shared::new(param.second),
            );
            (written, param.gradient, param.factors)
        })
        .collect();
    parallel::for_each_range(blocks.len(), 1, |range| {
        for (idx, numbers) in &blocks[range] {
            let ((value, first, second), gradient, factors) = &shared[*idx];
            // SAFETY: each block is met once.
            #[allow(unsafe_code)]
            let (value, first, second) = unsafe {
                (
                    value.part(numbers.clone()),
                    first.part(numbers.clone()),
                    second.part(numbers.clone()),
                )
            };
            let gradient = &gradient[numbers.clone()];
            dispatch(Update(Slices {
                value,
                gradient,
                first,
                second,
                factors: *factors,
            }));
        }
    });
}

fn blocks(lengths: impl Iterator<Item = usize>) -> Vec<(usize, std::ops::Range<usize>)> {
    lengths
        .enumerate()
        .flat_map(|(idx, len)| (0..len).step_by(BLOCK).map(move |at| (idx, at..(at + BLOCK).min(len))))
        .collect()
}

pub(super) struct Update<'a>(pub(super) Slices<'a>);

impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Slices {
            value,
            gradient,
            first,
            second,
            factors: f,
        } = self.0;
        for at in (0..value.len()).step_by(LANES) {
            let g = f32::read::<L>(gradient, at) * L::splat(f.gradient_scale);
            let m = f32::read::<L>(first, at);
            let m = (g - m).mul_add(L::splat(f.toward_gradient), m);
            let v = f32::read::<L>(second, at) * L::splat(f.beta2);
            let v = (g * g).mul_add(L::splat(f.toward_square), v);
            let denominator = v.sqrt() / L::splat(f.root_correction) + L::splat(f.eps);
            let w = f32::read::<L>(value, at) * L::splat(f.decay);
            let w = (m / denominator).mul_add(L::splat(-f.step_size), w);
            f32::write(first, at, m);
            f32::write(second, at, v);
            f32::write(value, at, w);
        }
    }
}

/// The sum of squares, each block in f64, the blocks in their order.
pub(super) fn square_sum(gradients: &[&[f32]]) -> f64 {
    let blocks = blocks(gradients.iter().map(|gradient| gradient.len()));
    let mut partial = vec![0.0f64; blocks.len()];
    let shared = Shared::new(&mut partial);
    parallel::for_each_range(blocks.len(), 1, |range| {
        // SAFETY: each block is met once.
        #[allow(unsafe_code)]
        let sums = unsafe { shared.part(range.clone()) };
        for ((idx, numbers), sum) in blocks[range].iter().zip(sums) {
            *sum = dispatch(SquareSum(&gradients[*idx][numbers.clone()]));
        }
    });
    partial.iter().sum()
}

pub(super) struct SquareSum<'a>(pub(super) &'a [f32]);

impl Kernel for SquareSum<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<L: Lanes>(self) -> f64 {
        // Plain lanes of f64: the compiler vectorises them for each instruction set.
        let mut sums = [0.0f64; LANES];
        let (whole, rest) = self.0.as_chunks::<LANES>();
        for chunk in whole {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        sums.iter().sum::<f64>() + rest
    }
}
