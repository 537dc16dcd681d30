//! One pass over the vocabulary for some tokens: `Sᵀ = W·Hᵀ`, on-line softmax, `Oᵀ += Wᵀ·Pᵀ`.
//!
//! The sums are of all words but a token's target: its score is taken out, and enters in f32 when the sums are written.
//! Tokens lie in lanes. The weight is read where it lies; for the second product small blocks of it are transposed on
//! the way, which many tokens share, so nothing of it is kept twice.
#![allow(unsafe_code)]

use std::ops::Range;

use tch::{Device, Kind, Tensor};
use tensor_core::blob;
use tensor_core::gemm::tile::Number as _;
use tensor_core::parallel::{self, Shared, balance};
use tensor_core::tile::pack::{self, Matrix, Rows};
use tensor_core::tile::scratch::{self, Need, Plain, Scratch};
use tensor_core::tile::{
    BLOCK, LANES, Left, Number, Right, TileKernel, TileLanes, Tiles, dispatch, exp2, product, whole,
};

use super::targets::Kept;
use super::{Found, Wanted};
use crate::softmax::{LOWEST, exponentials, halves, maximum, rescale, store_halves};

/// Words of a step.
const STEP: usize = 256;
/// Tokens of a task at most: their sums, 4 bytes times d each, stay in a core's cache.
const TOKENS: usize = 256;
/// By how many powers of two a score may exceed what exponentials are taken relative to.
const SLACK: f32 = 8.0;

pub(super) fn log_probs<T: Number + Plain>(hidden: &Tensor, weight: &Tensor, kept: &Kept, wanted: Wanted) -> Found {
    let (hidden, weight) = (kept.gather(hidden), weight.contiguous());
    let n = kept.len();
    let d = hidden.size()[1] as usize;
    let numbers = || Tensor::empty([n as i64], (Kind::Float, Device::Cpu));
    let mut found = Found {
        log_probs: numbers(),
        lse: numbers(),
        entropies: wanted.entropies.then(numbers),
        direction: wanted
            .direction
            .then(|| Tensor::empty([n as i64, d as i64], (T::KIND, Device::Cpu))),
    };
    // libtorch gives no memory to empty tensors.
    if n == 0 {
        return found;
    }
    let tasks = parallel::pieces(n, TOKENS, TOKENS / 2, BLOCK);
    let targets = blob::to_vec::<i64>(&kept.targets);
    // SAFETY: the caller's tensors are borrowed, and nothing writes to them before this function returns.
    let [hidden, weight] = unsafe { [blob::slice::<T>(&hidden), blob::slice::<T>(&weight)] };
    let head = Head {
        hidden: Matrix::new(hidden, d),
        weight: Matrix::new(weight, d),
        targets: &targets,
        tasks: &tasks,
        log_probs: Shared::new(blob::slice_mut(&mut found.log_probs)),
        lse: Shared::new(blob::slice_mut(&mut found.lse)),
        entropies: found.entropies.as_mut().map(|x| Shared::new(blob::slice_mut(x))),
        direction: found.direction.as_mut().map(|x| Shared::new(blob::slice_mut::<T>(x))),
    };
    balance(tasks.len(), |mine| dispatch(Run(&head, mine)));
    found
}

/// Some words' rows as a left operand: where they lie, or copied to `padded` where they are no whole blocks.
#[inline(always)]
pub(super) fn words<'a, T: Number>(words: Matrix<'a, T>, padded: &'a mut [T]) -> Left<'a, T> {
    if words.width.is_multiple_of(BLOCK) && words.len().is_multiple_of(BLOCK) {
        return Left::rows(words.data, words.width);
    }
    pack::left(words, padded);
    Left::rows(padded, whole(words.width))
}

struct Head<'a, T> {
    hidden: Matrix<'a, T>,
    weight: Matrix<'a, T>,
    targets: &'a [i64],
    /// Tokens of each, the most first.
    tasks: &'a [Range<usize>],
    log_probs: Shared<'a, f32>,
    lse: Shared<'a, f32>,
    entropies: Option<Shared<'a, f32>>,
    direction: Option<Shared<'a, T>>,
}

struct Run<'a, T>(&'a Head<'a, T>, &'a mut dyn Iterator<Item = usize>);

impl<T: Number + Plain> TileKernel for Run<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, tiles: &Tiles) {
        let Self(head, mine) = self;
        let width = whole(head.weight.width);
        let tokens = head.tasks.first().map_or(0, |task| whole(task.len()));
        let mut held = scratch::hold(Memory::<T>::need(tokens, width));
        let mut scratch = held.scratch();
        let mut memory = Memory::new(&mut scratch, tokens, width);
        for task in mine {
            head.task::<L>(tiles, head.tasks[task].clone(), &mut memory);
        }
    }
}

/// A thread's scratch memory.
struct Memory<'a, T> {
    /// The tokens transposed: panels `width` deep.
    hidden: &'a mut [T],
    /// Words that are no whole blocks, `[STEP, width]`.
    padded: &'a mut [T],
    /// 32 columns of the words, transposed: `[STEP / 32, 32, 32]`.
    columns: &'a mut [T],
    /// Panels `STEP` deep.
    probabilities: &'a mut [T],
    /// `[STEP, 32]`.
    scores: &'a mut [f32],
    /// The output transposed, `[width, tokens]`.
    sums: &'a mut [f32],
    lanes: Lanes<'a>,
}

/// One number a token.
struct Lanes<'a> {
    /// What exponentials are taken relative to.
    base: &'a mut [f32],
    /// Sum of the other words' exponentials.
    sum: &'a mut [f32],
    /// The target's score.
    chosen: &'a mut [f32],
    /// Sum of the other words' exponentials times scores.
    mean: &'a mut [f32],
}

impl<'a, T: Plain> Memory<'a, T> {
    fn need(tokens: usize, width: usize) -> Need {
        Need::default()
            .and::<T>(tokens * width)
            .and::<T>(STEP * width)
            .and::<T>(STEP * BLOCK)
            .and::<T>(STEP * tokens)
            .and::<f32>(STEP * BLOCK)
            .and::<f32>(tokens * width)
            .and::<f32>(tokens)
            .and::<f32>(tokens)
            .and::<f32>(tokens)
            .and::<f32>(tokens)
    }

    fn new(scratch: &mut Scratch<'a>, tokens: usize, width: usize) -> Self {
        Self {
            hidden: scratch.take(tokens * width),
            padded: scratch.take(STEP * width),
            columns: scratch.take(STEP * BLOCK),
            probabilities: scratch.take(STEP * tokens),
            scores: scratch.take(STEP * BLOCK),
            sums: scratch.take(tokens * width),
            lanes: Lanes {
                base: scratch.take(tokens),
                sum: scratch.take(tokens),
                chosen: scratch.take(tokens),
                mean: scratch.take(tokens),
            },
        }
    }
}

impl<T: Number + Plain> Head<'_, T> {
    #[inline(always)]
    fn task<L: TileLanes>(&self, tiles: &Tiles, tokens: Range<usize>, memory: &mut Memory<T>) {
        let (vocabulary, width, stride) = (self.weight.len(), whole(self.weight.width), whole(tokens.len()));
        pack::right_transposed::<L, T>(self.hidden.part(tokens.clone()), memory.hidden);
        memory.lanes.base.fill(LOWEST);
        memory.lanes.sum.fill(0.0);
        memory.lanes.mean.fill(0.0);
        let targets = &self.targets[tokens.clone()];
        for start in (0..vocabulary).step_by(STEP) {
            let range = start..vocabulary.min(start + STEP);
            let rows = self.weight.part(range.clone());
            for lane in (0..stride).step_by(BLOCK) {
                let left = words(rows, memory.padded);
                let right = Right::panels(&*memory.hidden, width).from_column(lane);
                let sides = [whole(range.len()), BLOCK, width];
                product::<L, T>(tiles, sides, left, right, (&mut *memory.scores, BLOCK), false);
                memory.scores[range.len() * BLOCK..whole(range.len()) * BLOCK].fill(f32::NEG_INFINITY);
                for (i, &target) in targets.iter().enumerate().skip(lane).take(BLOCK) {
                    if range.contains(&(target as usize)) {
                        let score = &mut memory.scores[(target as usize - start) * BLOCK + i - lane];
                        memory.lanes.chosen[i] = std::mem::replace(score, f32::NEG_INFINITY);
                    }
                }
                self.softmax::<L>(whole(range.len()), lane, stride, start == 0, memory);
            }
            if self.direction.is_none() {
                continue;
            }
            for column in (0..width).step_by(BLOCK) {
                pack::left_transposed::<L, T>(rows, column, BLOCK, memory.columns);
                let left = Left::blocks(&*memory.columns, BLOCK);
                let right = Right::panels(&*memory.probabilities, STEP);
                let sides = [BLOCK, stride, whole(range.len())];
                let sums = &mut memory.sums[column * stride..];
                product::<L, T>(tiles, sides, left, right, (sums, stride), start > 0);
            }
        }
        self.write::<L>(tokens, stride, memory);
    }

    /// Takes a step's scores of 32 tokens into their sums, and leaves their exponentials.
    #[inline(always)]
    fn softmax<L: TileLanes>(&self, len: usize, lane: usize, stride: usize, is_first: bool, memory: &mut Memory<T>) {
        let scores = &memory.scores[..len * BLOCK];
        let scale = L::splat(std::f32::consts::LOG2_E);
        let before: [L; 2] = halves(&memory.lanes.base[lane..]);
        let mut sum: [L; 2] = halves(&memory.lanes.sum[lane..]);
        let mut mean: [L; 2] = halves(&memory.lanes.mean[lane..]);
        let largest = maximum(scores, before);
        let slack = L::splat(SLACK);
        let within = [
            largest[0].at_most(before[0] + slack).same(largest[0]),
            largest[1].at_most(before[1] + slack).same(largest[1]),
        ];
        let mut base = before;
        if !(within[0] && within[1]) {
            base = largest;
            let factor = [exp2((before[0] - base[0]) * scale), exp2((before[1] - base[1]) * scale)];
            sum = [sum[0] * factor[0], sum[1] * factor[1]];
            mean = [mean[0] * factor[0], mean[1] * factor[1]];
            if !is_first && self.direction.is_some() {
                rescale(&mut memory.sums[lane..], stride, factor);
            }
        }
        let shift = [base[0] * scale, base[1] * scale];
        let panels = &mut memory.probabilities[lane * STEP..][..BLOCK * STEP];
        sum = exponentials(scores, scale, shift, sum, panels);
        if self.entropies.is_some() {
            for row in scores.chunks_exact(BLOCK) {
                let score: [L; 2] = halves(row);
                for i in 0..2 {
                    // Words of padding score minus infinity, and weigh nothing.
                    let weight = exp2(score[i].mul_add(scale, L::splat(0.0) - shift[i]));
                    mean[i] = score[i].at_least(L::splat(LOWEST)).mul_add(weight, mean[i]);
                }
            }
        }
        store_halves(base, &mut memory.lanes.base[lane..]);
        store_halves(sum, &mut memory.lanes.sum[lane..]);
        store_halves(mean, &mut memory.lanes.mean[lane..]);
    }

    /// Writes what was found about some tokens.
    #[inline(always)]
    fn write<L: TileLanes>(&self, tokens: Range<usize>, stride: usize, memory: &Memory<T>) {
        let (lanes, n, d) = (&memory.lanes, tokens.len(), self.weight.width);
        // SAFETY: no other task has these tokens.
        let (log_probs, lse) = unsafe { (self.log_probs.part(tokens.clone()), self.lse.part(tokens.clone())) };
        for i in 0..n {
            let token = Token::of(lanes, i);
            log_probs[i] = token.log_p;
            lse[i] = lanes.chosen[i] - token.log_p;
        }
        if let Some(entropies) = &self.entropies {
            // SAFETY: as above.
            let entropies = unsafe { entropies.part(tokens.clone()) };
            for (i, entropy) in entropies.iter_mut().enumerate() {
                let token = Token::of(lanes, i);
                let of_others = (lanes.sum[i] * lse[i] - lanes.mean[i]) / token.total;
                *entropy = of_others - token.log_p * token.log_p.exp();
            }
        }
        let Some(direction) = &self.direction else {
            return;
        };
        for first in (0..n).step_by(LANES) {
            let (mut factors, mut missing) = ([0.0; LANES], [0.0; LANES]);
            for i in 0..LANES.min(n - first) {
                let token = Token::of(lanes, first + i);
                factors[i] = -1.0 / token.total;
                missing[i] = token.missing;
            }
            let factor = L::load(&factors);
            for at in (0..d).step_by(LANES) {
                let mut columns = [factor; LANES];
                for (i, column) in columns.iter_mut().enumerate() {
                    *column = f32::bits::<L>(&memory.sums[(at + i) * stride + first..]) * factor;
                }
                for (i, mean) in L::transpose(columns).into_iter().enumerate().take(n - first) {
                    let token = tokens.start + first + i;
                    let chosen = self.weight.row(self.targets[token] as usize);
                    // SAFETY: no other task has this token.
                    let to = unsafe { direction.part(token * d..(token + 1) * d) };
                    T::write(to, at, T::read::<L>(chosen, at).mul_add(L::splat(missing[i]), mean));
                }
            }
        }
    }
}

/// What the sums say of one token and its target.
struct Token {
    log_p: f32,
    /// `1 - p`.
    missing: f32,
    /// All words' exponentials, relative to the base.
    total: f32,
}

impl Token {
    #[inline(always)]
    fn of(lanes: &Lanes, i: usize) -> Self {
        let (base, sum, chosen) = (lanes.base[i], lanes.sum[i], lanes.chosen[i]);
        let above = chosen - base;
        // A score that is not finite must not look certain.
        let none = chosen * 0.0;
        let total = sum + above.exp();
        let log_p = if above > 0.0 {
            -(sum * (-above).exp()).ln_1p()
        } else {
            above - total.ln()
        };
        Self {
            log_p: log_p + none,
            missing: sum / total + none,
            total,
        }
    }
}
