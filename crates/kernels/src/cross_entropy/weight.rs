//! The gradient of a head that trains: `dW = Gᵀ·H` with `G = dy ∘ (onehot - P)`, P rebuilt from the log-sums.
//!
//! A task owns some words, so no sum is shared, and writes them once.
#![allow(unsafe_code)]

use std::ops::Range;

use tch::{Device, Tensor};
use tensor_core::blob;
use tensor_core::gemm::tile::Number as _;
use tensor_core::parallel::{Shared, balance};
use tensor_core::tile::pack::{self, Matrix, Rows};
use tensor_core::tile::scratch::{self, Need, Plain, Scratch};
use tensor_core::tile::{
    BLOCK, LANES, Left, Number, Right, TileKernel, TileLanes, Tiles, dispatch, exp2, product, whole,
};

use super::Slopes;
use super::forward::words;
use super::targets::Kept;
use crate::softmax::halves;

/// Words of a task.
const WORDS: usize = 128;
/// Tokens of a step.
const STEP: usize = 256;

/// `[v, d]` in the weight's dtype.
pub(super) fn gradient<T: Number + Plain>(
    hidden: &Tensor,
    weight: &Tensor,
    kept: &Kept,
    lse: &Tensor,
    slopes: &Slopes,
) -> Tensor {
    let n = kept.len();
    if n == 0 {
        return weight.zeros_like();
    }
    let (hidden, weight) = (kept.gather(hidden), weight.contiguous());
    let of_target = blob::to_vec(&slopes.of_target);
    let (vocabulary, d) = weight.size2().expect("the weight is [vocabulary, width]");
    let mut out = Tensor::empty([vocabulary, d], (T::KIND, Device::Cpu));
    let (d, rows) = (d as usize, whole(n));
    // SAFETY: the saved tensors are borrowed, and nothing writes to them before this function returns.
    let [hidden, weight] = unsafe { [blob::slice::<T>(&hidden), blob::slice::<T>(&weight)] };
    let hidden = Matrix::new(hidden, d);
    let mut packed = [(); 2].map(|()| vec![T::default(); rows * whole(d)]);
    let [transposed, plain] = &mut packed;
    dispatch(Pack {
        hidden,
        transposed,
        plain,
    });
    // Tokens of padding get no probability.
    let mut log2_sums = vec![f32::INFINITY; rows];
    let mut factors = vec![0.0; rows];
    factors[..n].copy_from_slice(&blob::to_vec::<f32>(&slopes.of_words));
    for (to, lse) in log2_sums.iter_mut().zip(blob::to_vec::<f32>(lse)) {
        *to = lse * std::f32::consts::LOG2_E;
    }
    let mut by_target: Vec<(usize, usize)> = blob::to_vec::<i64>(&kept.targets)
        .iter()
        .enumerate()
        .map(|(token, &target)| (target as usize, token))
        .collect();
    by_target.sort_unstable();
    let head = Head {
        weight: Matrix::new(weight, d),
        transposed: Right::panels(&packed[0], whole(d)),
        plain: Right::panels(&packed[1], rows),
        rows,
        log2_sums: &log2_sums,
        factors: &factors,
        of_target: &of_target,
        by_target: &by_target,
        out: Shared::new(blob::slice_mut::<T>(&mut out)),
    };
    balance((vocabulary as usize).div_ceil(WORDS), |mine| {
        dispatch(Run(&head, mine));
    });
    out
}

struct Pack<'a, T> {
    hidden: Matrix<'a, T>,
    transposed: &'a mut [T],
    plain: &'a mut [T],
}

impl<T: Number> TileKernel for Pack<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, _: &Tiles) {
        pack::right_transposed::<L, T>(self.hidden, self.transposed);
        pack::right::<L, T>(self.hidden, self.plain);
    }
}

struct Head<'a, T> {
    weight: Matrix<'a, T>,
    /// `[d, n]`.
    transposed: Right<'a, T>,
    /// `[n, d]`.
    plain: Right<'a, T>,
    /// n in whole blocks.
    rows: usize,
    /// `log2 e` times the log-sums.
    log2_sums: &'a [f32],
    /// The gradient of each token's log-probability.
    factors: &'a [f32],
    /// The gradient of each target's score.
    of_target: &'a [f32],
    /// Targets with their tokens, in order.
    by_target: &'a [(usize, usize)],
    out: Shared<'a, T>,
}

struct Run<'a, T>(&'a Head<'a, T>, &'a mut dyn Iterator<Item = usize>);

impl<T: Number + Plain> TileKernel for Run<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, tiles: &Tiles) {
        let Self(head, mine) = self;
        let width = whole(head.weight.width);
        let need = Need::default()
            .and::<T>(WORDS * width)
            .and::<T>(WORDS * STEP)
            .and::<f32>(WORDS * BLOCK)
            .and::<f32>(WORDS * width);
        let mut held = scratch::hold(need);
        let mut scratch = held.scratch();
        let mut memory = Memory::new(&mut scratch, width);
        for task in mine {
            let first = task * WORDS;
            head.task::<L>(tiles, first..head.weight.len().min(first + WORDS), &mut memory);
        }
    }
}

struct Memory<'a, T> {
    padded: &'a mut [T],
    /// G transposed, `[WORDS, STEP]`.
    slopes: &'a mut [T],
    /// `[WORDS, 32]`.
    scores: &'a mut [f32],
    /// dW, `[WORDS, width]`.
    sums: &'a mut [f32],
}

impl<'a, T: Plain> Memory<'a, T> {
    fn new(scratch: &mut Scratch<'a>, width: usize) -> Self {
        Self {
            padded: scratch.take(WORDS * width),
            slopes: scratch.take(WORDS * STEP),
            scores: scratch.take(WORDS * BLOCK),
            sums: scratch.take(WORDS * width),
        }
    }
}

impl<T: Number + Plain> Head<'_, T> {
    #[inline(always)]
    fn task<L: TileLanes>(&self, tiles: &Tiles, range: Range<usize>, memory: &mut Memory<T>) {
        let (d, width, len) = (self.weight.width, whole(self.weight.width), whole(range.len()));
        let rows = self.weight.part(range.clone());
        let targets = {
            let at = |word: usize| self.by_target.partition_point(|&(target, _)| target < word);
            &self.by_target[at(range.start)..at(range.end)]
        };
        for start in (0..self.rows).step_by(STEP) {
            let tokens = start..self.rows.min(start + STEP);
            for lane in tokens.clone().step_by(BLOCK) {
                let left = words(rows, memory.padded);
                let sides = [len, BLOCK, width];
                let right = self.transposed.from_column(lane);
                product::<L, T>(tiles, sides, left, right, (&mut *memory.scores, BLOCK), false);
                self.slopes::<L>(&memory.scores[..len * BLOCK], lane, &mut memory.slopes[lane - start..]);
                for &(target, token) in targets.iter().filter(|(_, token)| (lane..lane + BLOCK).contains(token)) {
                    let word = target - range.start;
                    memory.slopes[word * STEP + token - start] = T::from_f32(self.of_target[token]);
                }
            }
            let left = Left::rows(&*memory.slopes, STEP);
            let sides = [len, width, tokens.len()];
            let right = self.plain.from_row(start);
            product::<L, T>(tiles, sides, left, right, (&mut *memory.sums, width), start > 0);
        }
        for (word, sums) in range.zip(memory.sums.chunks_exact(width)) {
            // SAFETY: no other task has this word.
            let to = unsafe { self.out.part(word * d..(word + 1) * d) };
            for at in (0..d).step_by(LANES) {
                T::write(to, at, f32::bits::<L>(&sums[at..]));
            }
        }
    }

    /// `-dy · P` of 32 tokens, as rows `STEP` apart.
    #[inline(always)]
    fn slopes<L: TileLanes>(&self, scores: &[f32], token: usize, to: &mut [T]) {
        let scale = L::splat(std::f32::consts::LOG2_E);
        let sums: [L; 2] = halves(&self.log2_sums[token..]);
        let factors: [L; 2] = halves(&self.factors[token..]);
        for (pair, two) in scores.chunks_exact(2 * BLOCK).enumerate() {
            let (even, odd) = two.split_at(BLOCK);
            let (even, odd): ([L; 2], [L; 2]) = (halves(even), halves(odd));
            let (before, after) = to.split_at_mut((2 * pair + 1) * STEP);
            for half in 0..2 {
                let p_even = exp2(even[half] * scale - sums[half]);
                let p_odd = exp2(odd[half] * scale - sums[half]);
                let factor = L::splat(0.0) - factors[half];
                let lane = half * LANES;
                let to_even = &mut before[2 * pair * STEP + lane..];
                T::store_rows(p_even * factor, p_odd * factor, to_even, &mut after[lane..]);
            }
        }
    }
}
