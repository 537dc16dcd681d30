//! Attention of new tokens over cached keys and values, without a graph.
//!
//! A few rows, as in generation token by token, read each key and value once, where they lie; more rows, as in reading
//! a prompt, go through the blocks of the forward pass.
#![allow(unsafe_code)]

use half::bf16;
use tch::{Device, Kind, Tensor};
use tensor_core::gemm::tile::Number as _;
use tensor_core::parallel::{Shared, balance};
use tensor_core::tile::pack::Rows;
use tensor_core::tile::scratch::{self, Need, Plain};
use tensor_core::tile::{LANES, Number, TileKernel, TileLanes, Tiles, dispatch, exp2};
use tensor_core::{Documents, blob};

use super::forward::attend_sequences;
use super::work::{Geometry, Sequence, View};
use super::{fused_kind, reference};
use crate::softmax::LOWEST;

/// Up to this many rows (tokens times query heads a key/value head) go one by one.
const FEW: usize = 16;
/// Keys of a step.
const STEP: usize = 128;

/// The keys and values of one sequence, past and present: `[m, g, d]` each, views or not.
#[derive(Debug)]
pub struct SequenceKv<'a> {
    /// Keys, after position encoding.
    pub keys: &'a Tensor,
    /// Values.
    pub values: &'a Tensor,
}

/// Attends the new tokens `[t, h, d]` of each document over its sequence, whose last positions they are.
///
/// Returns `[t, h, d]`, dtype of the queries, without a graph. `scale` and `window` as for [`super::attention`].
///
/// # Panics
/// If there is not one sequence a document, if one is shorter than its document, or if shapes do not belong together.
pub fn attend_past(
    queries: &Tensor,
    sequences: &[SequenceKv],
    documents: &Documents,
    scale: f64,
    window: Option<usize>,
) -> Tensor {
    assert_eq!(sequences.len(), documents.len(), "one sequence a document");
    assert_eq!(
        queries.size()[0] as usize,
        documents.num_tokens(),
        "as many tokens as the documents have"
    );
    for (sequence, range) in sequences.iter().zip(documents.ranges()) {
        assert!(
            sequence.keys.size()[0] as usize >= range.len(),
            "the sequence holds its new tokens"
        );
    }
    let Some(first) = sequences.first() else {
        return queries.zeros_like();
    };
    let geometry = Geometry::of(queries, first.keys, first.values, scale, window);
    for sequence in sequences {
        let other = Geometry::of(queries, sequence.keys, sequence.values, scale, window);
        assert_eq!(
            other.kv_heads, geometry.kv_heads,
            "as many key/value heads in every sequence"
        );
    }
    let fits = sequences
        .iter()
        .all(|s| fused_kind([queries, s.keys, s.values], scale).is_some());
    tch::no_grad(|| match queries.kind() {
        Kind::Float if fits => fused::<f32>(queries, sequences, documents, geometry),
        Kind::BFloat16 if fits => fused::<bf16>(queries, sequences, documents, geometry),
        _ => {
            let parts: Vec<Tensor> = sequences
                .iter()
                .zip(documents.ranges())
                .map(|(sequence, range)| {
                    let q = queries.narrow(0, range.start as i64, range.len() as i64);
                    reference::causal(&q, sequence.keys, sequence.values, scale, window)
                })
                .collect();
            Tensor::cat(&parts, 0)
        }
    })
}

pub(super) fn fused<T: Number + Plain>(
    queries: &Tensor,
    sequences: &[SequenceKv],
    documents: &Documents,
    geometry: Geometry,
) -> Tensor {
    let mut copies: Vec<[Option<Tensor>; 2]> = sequences.iter().map(|_| [None, None]).collect();
    let sequences: Vec<Sequence<T>> = sequences
        .iter()
        .zip(documents.ranges())
        .zip(&mut copies)
        .map(|((sequence, range), [copy_k, copy_v])| Sequence {
            queries: range,
            keys: 0..sequence.keys.size()[0] as usize,
            k: View::of(sequence.keys, copy_k),
            v: View::of(sequence.values, copy_v),
        })
        .collect();
    if documents.longest() * geometry.group > FEW {
        return attend_sequences(queries, &sequences, geometry, false).0;
    }
    let mut copy = None;
    let mut out = Tensor::empty(queries.size(), (T::KIND, Device::Cpu));
    let shared = Shared::new(blob::slice_mut::<T>(&mut out));
    let q = View::of(queries, &mut copy);
    balance(sequences.len() * geometry.kv_heads, |tasks| {
        dispatch(Few {
            geometry,
            q,
            sequences: &sequences,
            out: shared,
            tasks,
        });
    });
    out
}

struct Few<'a, T> {
    geometry: Geometry,
    q: View<'a, T>,
    sequences: &'a [Sequence<'a, T>],
    out: Shared<'a, T>,
    tasks: &'a mut dyn Iterator<Item = usize>,
}

impl<T: Number + Plain> TileKernel for Few<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, _: &Tiles) {
        let width = self.geometry.head_dim.next_multiple_of(LANES);
        let need = Need::default()
            .and::<f32>(FEW * width)
            .and::<f32>(FEW * width)
            .and::<f32>(FEW * STEP);
        let mut held = scratch::hold(need);
        let mut scratch = held.scratch();
        let mut memory = [
            scratch.take(FEW * width),
            scratch.take(FEW * width),
            scratch.take(FEW * STEP),
        ];
        for task in self.tasks {
            let (sequence, kv_head) = (task / self.geometry.kv_heads, task % self.geometry.kv_heads);
            few_rows::<L, T>(
                self.geometry,
                &self.sequences[sequence],
                kv_head,
                self.q,
                &self.out,
                &mut memory,
            );
        }
    }
}

/// `memory`: queries and sums `[rows, width]`, scores `[rows, STEP]`.
#[inline(always)]
fn few_rows<L: TileLanes, T: Number>(
    geometry: Geometry,
    sequence: &Sequence<T>,
    kv_head: usize,
    q: View<T>,
    out: &Shared<T>,
    [queries, sums, scores]: &mut [&mut [f32]; 3],
) {
    let Geometry { group, head_dim, .. } = geometry;
    let width = head_dim.next_multiple_of(LANES);
    let rows = q.rows(sequence.queries.clone(), kv_head * group, group);
    let position = |row: usize| sequence.offset() + row / group;
    for row in 0..rows.len() {
        for at in (0..head_dim).step_by(LANES) {
            let scaled = T::read::<L>(rows.row(row), at) * L::splat(geometry.log2_scale());
            f32::store_bits(scaled, &mut queries[row * width + at..]);
        }
    }
    sums[..rows.len() * width].fill(0.0);
    let mut softmax = [(LOWEST, 0.0f32); FEW];
    let (k, v) = (
        sequence.k.rows(sequence.keys.clone(), kv_head, 1),
        sequence.v.rows(sequence.keys.clone(), kv_head, 1),
    );
    for start in (geometry.first_key(position(0))..sequence.keys.len()).step_by(STEP) {
        let keys = start..sequence.keys.len().min(start + STEP);
        for key in keys.clone() {
            let k = k.row(key);
            for row in 0..rows.len() {
                let mut sum = L::splat(0.0);
                for at in (0..head_dim).step_by(LANES) {
                    sum = T::read::<L>(k, at).mul_add(f32::bits(&queries[row * width + at..]), sum);
                }
                let seen = key <= position(row) && key >= geometry.first_key(position(row));
                scores[row * STEP + key - start] = if seen { sum.sum() } else { f32::NEG_INFINITY };
            }
        }
        for (row, (largest, sum)) in softmax.iter_mut().enumerate().take(rows.len()) {
            let scores = &mut scores[row * STEP..][..STEP];
            scores[keys.len()..].fill(f32::NEG_INFINITY);
            let before = *largest;
            *largest = scores.iter().fold(before, |a, &b| if b > a { b } else { a });
            let mut total = L::splat(0.0);
            for at in (0..STEP).step_by(LANES) {
                let p = exp2(f32::bits::<L>(&scores[at..]) - L::splat(*largest));
                f32::store_bits(p, &mut scores[at..]);
                total = total + p;
            }
            let factor = (before - *largest).exp2();
            *sum = *sum * factor + total.sum();
            for at in (0..width).step_by(LANES) {
                let sums = &mut sums[row * width + at..];
                let mut sum = f32::bits::<L>(sums) * L::splat(factor);
                for key in keys.clone().take(if at < head_dim { STEP } else { 0 }) {
                    sum = T::read::<L>(v.row(key), at).mul_add(L::splat(scores[key - start]), sum);
                }
                f32::store_bits(sum, sums);
            }
        }
    }
    for (row, &(_, sum)) in softmax.iter().enumerate().take(rows.len()) {
        let (token, head) = (sequence.queries.start + row / group, kv_head * group + row % group);
        let at = (token * geometry.kv_heads * group + head) * head_dim;
        // SAFETY: no other task has this row.
        let out = unsafe { out.part(at..at + head_dim) };
        for at in (0..head_dim).step_by(LANES) {
            T::write(out, at, f32::bits::<L>(&sums[row * width + at..]) * L::splat(1.0 / sum));
        }
    }
}
