//! The forward pass: on-line softmax over blocks of keys, a block of 32 query rows in 32 lanes.
//!
//! `Sᵀ = K·Qᵀ`, `Oᵀ = Vᵀ·Pᵀ`: P leaves the exponential in the layout in which the second product wants it.
#![allow(unsafe_code)]

use tch::{Device, Kind, Tensor};
use tensor_core::parallel::{Shared, balance};
use tensor_core::tile::scratch::{self, Need, Plain, Scratch};
use tensor_core::tile::{
    BLOCK, LANES, Left, Number, Right, TileKernel, TileLanes, Tiles, dispatch, exp2, pack, product, whole,
};
use tensor_core::vector::Lanes;
use tensor_core::{Documents, blob};

use super::work::{Geometry, RowBlock, Sequence, Task, View, sequences, tasks};
use crate::softmax::{LOWEST, exponentials, halves, maximum, rescale, store_halves};

/// Keys of a step.
const STEP: usize = 128;

/// The output `[t, h, d]`, and for the backward pass `log2 Σ_j 2^(log2 e · scale · q·k_j)` as `[g, t, h/g]` f32.
pub(super) fn attend<T: Number + Plain>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    documents: &Documents,
    geometry: Geometry,
    with_lse: bool,
) -> (Tensor, Option<Tensor>) {
    let mut copies = [None, None];
    let [copy_k, copy_v] = &mut copies;
    let sequences = sequences(documents, View::<T>::of(k, copy_k), View::of(v, copy_v));
    attend_sequences(q, &sequences, geometry, with_lse)
}

/// As [`attend`], over any sequences.
pub(super) fn attend_sequences<T: Number + Plain>(
    q: &Tensor,
    sequences: &[Sequence<T>],
    geometry: Geometry,
    with_lse: bool,
) -> (Tensor, Option<Tensor>) {
    let mut copy = None;
    let q_view = View::<T>::of(q, &mut copy);
    let mut out = Tensor::empty(q.size(), (T::KIND, Device::Cpu));
    let rows = (geometry.num_tokens * geometry.group * geometry.kv_heads) as i64;
    let mut lse = with_lse.then(|| Tensor::empty([rows], (Kind::Float, Device::Cpu)));
    let tasks = tasks(sequences, geometry);
    let shared = Outputs {
        out: Shared::new(blob::slice_mut::<T>(&mut out)),
        lse: lse.as_mut().map(|lse| Shared::new(blob::slice_mut::<f32>(lse))),
    };
    balance(tasks.len(), |mine| {
        dispatch(Forward {
            geometry,
            q: q_view,
            sequences,
            outputs: &shared,
            tasks: &tasks,
            mine,
        });
    });
    (out, lse)
}

struct Outputs<'a, T> {
    out: Shared<'a, T>,
    lse: Option<Shared<'a, f32>>,
}

struct Forward<'a, T> {
    geometry: Geometry,
    q: View<'a, T>,
    sequences: &'a [Sequence<'a, T>],
    outputs: &'a Outputs<'a, T>,
    tasks: &'a [Task],
    mine: &'a mut dyn Iterator<Item = usize>,
}

impl<T: Number + Plain> TileKernel for Forward<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, tiles: &Tiles) {
        let width = whole(self.geometry.head_dim);
        let longest = self.tasks.iter().map(|task| whole(task.keys.len())).max().unwrap_or(0);
        let need = Need::default()
            .and::<T>(longest * width)
            .and::<T>(longest * width)
            .and::<T>(BLOCK * width)
            .and::<T>(STEP * BLOCK)
            .and::<f32>(STEP * BLOCK)
            .and::<f32>(BLOCK * width);
        let mut held = scratch::hold(need);
        let mut scratch = held.scratch();
        let mut memory = Memory::new(&mut scratch, longest, width);
        for index in self.mine {
            let task = &self.tasks[index];
            let sequence = &self.sequences[task.sequence];
            attend_task::<L, T>(tiles, self.geometry, task, sequence, self.q, self.outputs, &mut memory);
        }
    }
}

/// A thread's scratch memory.
struct Memory<'a, T> {
    /// `[keys, width]`.
    keys: &'a mut [T],
    /// Values transposed, `[keys / 32, width, 32]`.
    values: &'a mut [T],
    /// Queries transposed: two panels, `width` deep.
    queries: &'a mut [T],
    /// Probabilities: two panels, `STEP` deep.
    probabilities: &'a mut [T],
    /// `[STEP, 32]`.
    scores: &'a mut [f32],
    /// The output transposed, `[width, 32]`.
    sums: &'a mut [f32],
}

impl<'a, T: Plain> Memory<'a, T> {
    fn new(scratch: &mut Scratch<'a>, longest: usize, width: usize) -> Self {
        Self {
            keys: scratch.take(longest * width),
            values: scratch.take(longest * width),
            queries: scratch.take(BLOCK * width),
            probabilities: scratch.take(STEP * BLOCK),
            scores: scratch.take(STEP * BLOCK),
            sums: scratch.take(BLOCK * width),
        }
    }
}

#[inline(always)]
fn attend_task<L: TileLanes, T: Number + Plain>(
    tiles: &Tiles,
    geometry: Geometry,
    task: &Task,
    sequence: &Sequence<T>,
    q: View<T>,
    outputs: &Outputs<T>,
    memory: &mut Memory<T>,
) {
    let Geometry { group, head_dim, .. } = geometry;
    let width = whole(head_dim);
    let keys = sequence.keys.start + task.keys.start..sequence.keys.start + task.keys.end;
    pack::left(sequence.k.rows(keys.clone(), task.kv_head, 1), memory.keys);
    pack::left_transposed::<L, T>(sequence.v.rows(keys, task.kv_head, 1), 0, width, memory.values);

    let first_token = sequence.queries.start + task.tokens.start;
    let position = sequence.offset() + task.tokens.start;
    let tokens = first_token..sequence.queries.start + task.tokens.end;
    let queries = q.rows(tokens, task.kv_head * group, group);
    let num_rows = task.tokens.len() * group;
    for row in (0..num_rows).step_by(BLOCK) {
        let rows = row..num_rows.min(row + BLOCK);
        pack::right_transposed::<L, T>(queries.part(rows.clone()), memory.queries);
        let block = RowBlock::new(geometry, position, rows.clone());
        let bounds = [0, LANES].map(|lane| block.lane_bounds(geometry, position, row + lane));
        let softmax = attend_rows::<L, T>(tiles, geometry, &block, bounds, task.keys.start, memory);
        for (half, (largest, sum)) in softmax.into_iter().enumerate() {
            let start = row + half * LANES;
            let rows = start.min(num_rows)..(start + LANES).min(num_rows);
            let place = |row: usize| {
                let (token, head) = (first_token + row / group, task.kv_head * group + row % group);
                let at = (token * geometry.kv_heads * group + head) * head_dim;
                at..at + head_dim
            };
            let inverse = L::splat(1.0) / sum;
            write_transposed::<L, T>(
                &memory.sums[half * LANES..],
                BLOCK,
                inverse,
                head_dim,
                rows.len(),
                |i| {
                    // SAFETY: no other task has this row.
                    unsafe { outputs.out.part(place(rows.start + i)) }
                },
            );
            if let Some(lse) = &outputs.lse {
                let (largest, sum) = (values(largest), values(sum));
                let at = (task.kv_head * geometry.num_tokens + first_token) * group + rows.start;
                // SAFETY: no other task has these rows.
                let lse = unsafe { lse.part(at..at + rows.len()) };
                for (lane, lse) in lse.iter_mut().enumerate() {
                    *lse = largest[lane] * geometry.log2_scale() + sum[lane].log2();
                }
            }
        }
    }
}

/// Leaves the unnormalised output in `memory.sums`; returns each lane's largest score and sum of probabilities.
#[inline(always)]
fn attend_rows<L: TileLanes, T: Number + Plain>(
    tiles: &Tiles,
    geometry: Geometry,
    block: &RowBlock,
    bounds: [[[f32; LANES]; 2]; 2],
    first_key: usize,
    memory: &mut Memory<T>,
) -> [(L, L); 2] {
    let width = whole(geometry.head_dim);
    let scale = L::splat(geometry.log2_scale());
    let bounds = [
        [L::load(&bounds[0][0]), L::load(&bounds[0][1])],
        [L::load(&bounds[1][0]), L::load(&bounds[1][1])],
    ];
    let mut largest = [L::splat(LOWEST); 2];
    let mut sum = [L::splat(0.0); 2];
    for start in block.keys.clone().step_by(STEP) {
        let end = block.keys.end.min(start + STEP);
        let (len, at) = (end - start, start - first_key);
        let keys = Left::rows(&memory.keys[at * width..], width);
        let queries = Right::panels(memory.queries, width);
        product::<L, T>(tiles, [len, BLOCK, width], keys, queries, (memory.scores, BLOCK), false);

        let before = largest;
        for group in (start..end).step_by(BLOCK) {
            let scores = &mut memory.scores[(group - start) * BLOCK..][..BLOCK * BLOCK];
            if block.cuts(group..group + BLOCK) {
                mask(scores, group, bounds);
            }
            largest = maximum(scores, largest);
        }
        let shift = [largest[0] * scale, largest[1] * scale];
        let is_first = start == block.keys.start;
        let is_higher = !(largest[0].same(before[0]) && largest[1].same(before[1]));
        if !is_first && is_higher {
            let factor = [
                exp2((before[0] - largest[0]) * scale),
                exp2((before[1] - largest[1]) * scale),
            ];
            sum = [sum[0] * factor[0], sum[1] * factor[1]];
            rescale(memory.sums, BLOCK, factor);
        }
        sum = exponentials(&memory.scores[..len * BLOCK], scale, shift, sum, memory.probabilities);

        let values = Left::blocks(&memory.values[at * width..], width);
        let probabilities = Right::panels(memory.probabilities, STEP);
        product::<L, T>(
            tiles,
            [width, BLOCK, len],
            values,
            probabilities,
            (memory.sums, BLOCK),
            !is_first,
        );
    }
    [(largest[0], sum[0]), (largest[1], sum[1])]
}

#[inline(always)]
fn mask<L: TileLanes>(scores: &mut [f32], first_key: usize, [low, high]: [[L; 2]; 2]) {
    for (key, row) in scores.chunks_exact_mut(BLOCK).enumerate() {
        let at = (first_key + key) as f32;
        let [x, y]: [L; 2] = halves(row);
        store_halves([x.between(at, low[0], low[1]), y.between(at, high[0], high[1])], row);
    }
}

/// Writes sixteen columns of `sums` (rows `stride` apart), times `factor`, as `len` rows of `width` numbers.
#[inline(always)]
pub(crate) fn write_transposed<'a, L: TileLanes, T: Number>(
    sums: &[f32],
    stride: usize,
    factor: L,
    width: usize,
    len: usize,
    row: impl Fn(usize) -> &'a mut [T],
) {
    for at in (0..width).step_by(LANES) {
        let mut columns = [L::splat(0.0); LANES];
        for (i, column) in columns.iter_mut().enumerate() {
            *column = L::load(sums[(at + i) * stride..].first_chunk().expect("sixteen columns")) * factor;
        }
        for (i, lanes) in L::transpose(columns).into_iter().enumerate().take(len) {
            T::write(row(i), at, lanes);
        }
    }
}

#[inline(always)]
pub(super) fn values<L: Lanes>(lanes: L) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    lanes.store(&mut out);
    out
}
