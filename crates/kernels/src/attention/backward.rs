//! The backward pass: probabilities rebuilt from the log-sums, block by block.
//!
//! With `δ_i = Σ dO_i·O_i` (eq. 4 of arXiv:2205.14135, appendix B): `dS = P ∘ (dO·Vᵀ - δ)`, `dV = Pᵀ·dO`,
//! `dK = s·dSᵀ·Q`, `dQ = s·dS·K`. A task owns its queries' gradients; the gradients of the keys are its own where it has
//! all queries of its sequence, else they are summed in the order of the tasks, so every run gives the same bits.
#![allow(unsafe_code)]

mod merge;
mod slopes;

use tch::{Device, Tensor};
use tensor_core::gemm::vector::Scalar as _;
use tensor_core::parallel::{Shared, balance};
use tensor_core::tile::pack::{self, Rows};
use tensor_core::tile::scratch::{self, Need, Plain, Scratch};
use tensor_core::tile::{BLOCK, LANES, Left, Number, Right, TileKernel, TileLanes, Tiles, dispatch, product, whole};
use tensor_core::{Documents, blob};

use merge::merge;
use slopes::{RowValues, clear, differentiate};

use super::forward::{values, write_transposed};
use super::work::{Geometry, HeadRows, RowBlock, Sequence, Task, View, sequences, tasks};
use crate::softmax::halves;

/// Query rows of a step.
const ROWS: usize = 128;
/// Keys of a step.
const STEP: usize = 128;

/// Gradients of q, k and v, contiguous. `inputs`: q, k, v and the output.
pub(super) fn gradients<T: Number + Plain>(
    inputs: [&Tensor; 4],
    gradient: &Tensor,
    lse: &Tensor,
    documents: &Documents,
    geometry: Geometry,
) -> [Tensor; 3] {
    let [q, k, v, out] = inputs;
    let mut copies = [const { None }; 5];
    let [copy_q, copy_k, copy_v, copy_out, copy_gradient] = &mut copies;
    let gradient = gradient.to_kind(T::KIND);
    let sequences = sequences(documents, View::<T>::of(k, copy_k), View::of(v, copy_v));
    let tasks = tasks(&sequences, geometry);
    let partial = Partial::new(&tasks, &sequences, geometry);
    let mut results = [q, k, v].map(|input| Tensor::empty(input.size(), (T::KIND, Device::Cpu)));
    let mut sums = vec![0.0f32; partial.len];
    let lse = blob::to_vec::<f32>(lse);
    let backward = Backward {
        geometry,
        q: View::of(q, copy_q),
        out: View::of(out, copy_out),
        gradient: View::of(&gradient, copy_gradient),
        lse: &lse,
        sequences: &sequences,
        tasks: &tasks,
        partial: &partial,
        results: results
            .each_mut()
            .map(|result| Shared::new(blob::slice_mut::<T>(result))),
        sums: Shared::new(&mut sums),
    };
    balance(tasks.len(), |mine| dispatch(Run(&backward, mine)));
    merge(&backward);
    results
}

/// Where tasks that share keys put their sums.
struct Partial {
    /// Of each task: where its dK begins, dV behind it; none where it has the keys alone.
    places: Vec<Option<usize>>,
    /// Tasks that share keys.
    groups: Vec<Vec<usize>>,
    len: usize,
}

impl Partial {
    fn new<T>(tasks: &[Task], sequences: &[Sequence<T>], geometry: Geometry) -> Self {
        let mut groups = vec![Vec::new(); sequences.len() * geometry.kv_heads];
        for (index, task) in tasks.iter().enumerate() {
            groups[task.sequence * geometry.kv_heads + task.kv_head].push(index);
        }
        groups.retain(|group: &Vec<usize>| group.len() > 1);
        let mut places = vec![None; tasks.len()];
        let mut len = 0;
        for &index in groups.iter().flatten() {
            places[index] = Some(len);
            len += 2 * tasks[index].keys.len() * geometry.head_dim;
        }
        Self { places, groups, len }
    }
}

struct Backward<'a, T> {
    geometry: Geometry,
    q: View<'a, T>,
    out: View<'a, T>,
    gradient: View<'a, T>,
    /// `[g, t, h/g]`.
    lse: &'a [f32],
    sequences: &'a [Sequence<'a, T>],
    tasks: &'a [Task],
    partial: &'a Partial,
    /// dQ, dK, dV.
    results: [Shared<'a, T>; 3],
    sums: Shared<'a, f32>,
}

struct Run<'a, T>(&'a Backward<'a, T>, &'a mut dyn Iterator<Item = usize>);

impl<T: Number + Plain> TileKernel for Run<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, tiles: &Tiles) {
        let Self(backward, mine) = self;
        let width = whole(backward.geometry.head_dim);
        let longest = backward
            .tasks
            .iter()
            .map(|task| whole(task.keys.len()))
            .max()
            .unwrap_or(0);
        let mut held = scratch::hold(Memory::<T>::need(longest, width));
        let mut scratch = held.scratch();
        let mut memory = Memory::new(&mut scratch, longest, width);
        for index in mine {
            backward.task::<L>(tiles, index, &mut memory);
        }
    }
}

/// A thread's scratch memory; `width` is the head's, in whole blocks.
struct Memory<'a, T> {
    /// K, V as `[keys, width]`; K transposed as `[keys / 32, width, 32]`.
    keys: [&'a mut [T]; 3],
    /// Q and dO transposed (panels `width` deep), Q and dO (panels of the block's rows).
    queries: [&'a mut [T]; 4],
    /// P and dS as `[STEP, ROWS]`, dS as panels `STEP` deep.
    probabilities: [&'a mut [T]; 3],
    /// Sᵀ and dPᵀ, `[STEP, 32]`.
    scores: [&'a mut [f32]; 2],
    /// dK and dV, `[keys, width]`.
    sums: [&'a mut [f32]; 2],
    /// dQ transposed, `[width, ROWS]`.
    query_sums: &'a mut [f32],
    /// Log-sums and δ of the block's rows.
    rows: [&'a mut [f32]; 2],
}

impl<'a, T: Plain> Memory<'a, T> {
    fn need(longest: usize, width: usize) -> Need {
        let mut need = Need::default();
        for _ in 0..3 {
            need = need.and::<T>(longest * width).and::<T>(STEP * ROWS);
        }
        for _ in 0..4 {
            need = need.and::<T>(ROWS * width);
        }
        for _ in 0..2 {
            need = need
                .and::<f32>(STEP * BLOCK)
                .and::<f32>(longest * width)
                .and::<f32>(ROWS);
        }
        need.and::<f32>(ROWS * width)
    }

    fn new(scratch: &mut Scratch<'a>, longest: usize, width: usize) -> Self {
        Self {
            keys: std::array::from_fn(|_| scratch.take(longest * width)),
            queries: std::array::from_fn(|_| scratch.take(ROWS * width)),
            probabilities: std::array::from_fn(|_| scratch.take(STEP * ROWS)),
            scores: std::array::from_fn(|_| scratch.take(STEP * BLOCK)),
            sums: std::array::from_fn(|_| scratch.take(longest * width)),
            query_sums: scratch.take(ROWS * width),
            rows: std::array::from_fn(|_| scratch.take(ROWS)),
        }
    }
}

impl<T: Number + Plain> Backward<'_, T> {
    #[inline(always)]
    fn task<L: TileLanes>(&self, tiles: &Tiles, index: usize, memory: &mut Memory<T>) {
        let Geometry { group, head_dim, .. } = self.geometry;
        let (task, width) = (&self.tasks[index], whole(head_dim));
        let sequence = &self.sequences[task.sequence];
        let keys = sequence.keys.start + task.keys.start..sequence.keys.start + task.keys.end;
        let k = sequence.k.rows(keys.clone(), task.kv_head, 1);
        pack::left(k, memory.keys[0]);
        pack::left(sequence.v.rows(keys, task.kv_head, 1), memory.keys[1]);
        pack::left_transposed::<L, T>(k, 0, width, memory.keys[2]);
        for sums in &mut memory.sums {
            sums[..whole(task.keys.len()) * width].fill(0.0);
        }
        let first_token = sequence.queries.start + task.tokens.start;
        let tokens = first_token..sequence.queries.start + task.tokens.end;
        let [q, out, gradient] =
            [self.q, self.out, self.gradient].map(|view| view.rows(tokens.clone(), task.kv_head * group, group));
        let num_rows = q.len();
        for row in (0..num_rows).step_by(ROWS) {
            let rows = row..num_rows.min(row + ROWS);
            let lse_at = (task.kv_head * self.geometry.num_tokens + first_token) * group + row;
            memory.rows[0][..rows.len()].copy_from_slice(&self.lse[lse_at..][..rows.len()]);
            // Rows of padding get no probability.
            memory.rows[0][rows.len()..].fill(f32::INFINITY);
            memory.rows[1][rows.len()..].fill(0.0);
            let parts = [q, out, gradient].map(|x| x.part(rows.clone()));
            deltas::<L, T>(parts[1], parts[2], memory.rows[1]);
            self.rows::<L>(tiles, task, rows.clone(), parts, memory);
            let place = |row: usize| {
                let (token, head) = (first_token + row / group, task.kv_head * group + row % group);
                let at = (token * self.geometry.kv_heads * group + head) * head_dim;
                at..at + head_dim
            };
            let scale = L::splat(self.geometry.scale as f32);
            for start in rows.clone().step_by(LANES) {
                let len = LANES.min(rows.end - start);
                write_transposed::<L, T>(&memory.query_sums[start - row..], ROWS, scale, head_dim, len, |i| {
                    // SAFETY: no other task has this row.
                    unsafe { self.results[0].part(place(start + i)) }
                });
            }
        }
        self.write_keys::<L>(index, memory);
    }

    /// Adds a block of rows to dK and dV, and computes its dQ.
    #[inline(always)]
    fn rows<L: TileLanes>(
        &self,
        tiles: &Tiles,
        task: &Task,
        rows: std::ops::Range<usize>,
        [q, _, gradient]: [HeadRows<T>; 3],
        memory: &mut Memory<T>,
    ) {
        let geometry = self.geometry;
        let (width, depth) = (whole(geometry.head_dim), whole(rows.len()));
        let position = self.sequences[task.sequence].offset() + task.tokens.start;
        pack::right_transposed::<L, T>(q, memory.queries[0]);
        pack::right_transposed::<L, T>(gradient, memory.queries[1]);
        pack::right::<L, T>(q, memory.queries[2]);
        pack::right::<L, T>(gradient, memory.queries[3]);
        let all = RowBlock::new(geometry, position, rows.clone());
        for start in all.keys.clone().step_by(STEP) {
            let keys = start..all.keys.end.min(start + STEP);
            let at = (start - task.keys.start) * width;
            for lane_row in (0..rows.len()).step_by(BLOCK) {
                let some = rows.start + lane_row..rows.end.min(rows.start + lane_row + BLOCK);
                let block = RowBlock::new(geometry, position, some.clone());
                let bounds = [0, LANES].map(|lane| block.lane_bounds(geometry, position, some.start + lane));
                self.scores::<L>(tiles, &block, bounds, [lane_row, at], keys.clone(), memory);
            }
            let [p, ds, ds_panels] = &memory.probabilities;
            let [_, _, q, gradient] = &memory.queries;
            for (sums, left, right) in [(0, ds, q), (1, p, gradient)] {
                let sums = &mut memory.sums[sums][at..];
                let sides = [keys.len(), width, depth];
                product::<L, T>(
                    tiles,
                    sides,
                    Left::rows(left, ROWS),
                    Right::panels(right, depth),
                    (sums, width),
                    true,
                );
            }
            let sides = [width, depth, keys.len()];
            let left = Left::blocks(&memory.keys[2][at..], width);
            let right = Right::panels(ds_panels, STEP);
            product::<L, T>(
                tiles,
                sides,
                left,
                right,
                (memory.query_sums, ROWS),
                start != all.keys.start,
            );
        }
    }

    /// P and dS of 32 rows and a step of keys.
    #[inline(always)]
    fn scores<L: TileLanes>(
        &self,
        tiles: &Tiles,
        block: &RowBlock,
        bounds: [[[f32; LANES]; 2]; 2],
        [row, at]: [usize; 2],
        keys: std::ops::Range<usize>,
        memory: &mut Memory<T>,
    ) {
        let width = whole(self.geometry.head_dim);
        let seen = block.keys.start.clamp(keys.start, keys.end)..block.keys.end.clamp(keys.start, keys.end);
        for unseen in [keys.start..seen.start, seen.end..keys.end] {
            clear(memory, row, unseen.start - keys.start..unseen.end - keys.start);
        }
        if seen.is_empty() {
            return;
        }
        let first = seen.start - keys.start;
        let sides = [seen.len(), BLOCK, width];
        for i in 0..2 {
            let left = Left::rows(&memory.keys[i][at + first * width..], width);
            let right = Right::panels(&*memory.queries[i], width).from_column(row);
            product::<L, T>(tiles, sides, left, right, (&mut *memory.scores[i], BLOCK), false);
        }
        let rows = RowValues {
            scale: L::splat(self.geometry.log2_scale()),
            lse: halves(&memory.rows[0][row..]),
            delta: halves(&memory.rows[1][row..]),
            bounds: [
                [L::load(&bounds[0][0]), L::load(&bounds[0][1])],
                [L::load(&bounds[1][0]), L::load(&bounds[1][1])],
            ],
        };
        for group in seen.clone().step_by(BLOCK) {
            let key = group - keys.start;
            if block.cuts(group..group + BLOCK) {
                differentiate::<L, T, true>(&rows, memory, row, [key, key - first], group);
            } else {
                differentiate::<L, T, false>(&rows, memory, row, [key, key - first], group);
            }
        }
    }

    /// Writes dK and dV, or hands them to [`merge`].
    #[inline(always)]
    fn write_keys<L: TileLanes>(&self, index: usize, memory: &Memory<T>) {
        let Geometry {
            head_dim,
            kv_heads,
            scale,
            ..
        } = self.geometry;
        let (task, width) = (&self.tasks[index], whole(head_dim));
        let sequence = &self.sequences[task.sequence];
        for (i, factor) in [(0, scale as f32), (1, 1.0)] {
            let sums = memory.sums[i].chunks_exact(width).take(task.keys.len());
            if let Some(place) = self.partial.places[index] {
                let len = task.keys.len() * head_dim;
                // SAFETY: each task has its own place.
                let to = unsafe { self.sums.part(place + i * len..place + (i + 1) * len) };
                for (to, sums) in to.chunks_exact_mut(head_dim).zip(sums) {
                    to.copy_from_slice(&sums[..head_dim]);
                }
                continue;
            }
            for (key, sums) in sums.enumerate() {
                let token = sequence.keys.start + task.keys.start + key;
                let at = (token * kv_heads + task.kv_head) * head_dim;
                // SAFETY: no other task has these keys.
                let to = unsafe { self.results[1 + i].part(at..at + head_dim) };
                for at in (0..head_dim).step_by(LANES) {
                    T::write(to, at, f32::read::<L>(sums, at) * L::splat(factor));
                }
            }
        }
    }
}

/// `δ_i = Σ dO_i·O_i` of each row.
#[inline(always)]
fn deltas<L: TileLanes, T: Number>(out: HeadRows<T>, gradient: HeadRows<T>, to: &mut [f32]) {
    for (i, to) in to.iter_mut().enumerate().take(out.len()) {
        let (out, gradient) = (out.row(i), gradient.row(i));
        let mut sum = L::splat(0.0);
        for at in (0..out.len()).step_by(LANES) {
            sum = T::read::<L>(out, at).mul_add(T::read(gradient, at), sum);
        }
        *to = values(sum).iter().sum();
    }
}
