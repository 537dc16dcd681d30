//! What attention is asked to do, cut into tasks that threads take one by one.
//!
//! The queries of the heads that share a key/value head are one matrix of rows, token by token: row `r` is query head
//! `r % group` of token `r / group`. So one block of rows shares its keys, and its causal edge is short.
#![allow(unsafe_code)]

use std::ops::Range;

use tch::{Device, Tensor};
use tensor_core::tile::pack::Rows;
use tensor_core::tile::{BLOCK, LANES, Number, whole};
use tensor_core::{Documents, parallel};

/// The shape of an attention, and what scores are multiplied with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) num_tokens: usize,
    pub(super) kv_heads: usize,
    /// Query heads a key/value head.
    pub(super) group: usize,
    pub(super) head_dim: usize,
    pub(super) scale: f64,
    /// Positions that a query sees, itself included; more than there are for all.
    pub(super) window: usize,
}

impl Geometry {
    pub(super) fn of(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, window: Option<usize>) -> Self {
        let sizes = |x: &Tensor| {
            let (t, heads, d) = x.size3().expect("queries, keys and values are [tokens, heads, width]");
            (t as usize, heads as usize, d as usize)
        };
        let (num_tokens, heads, head_dim) = sizes(q);
        let (num_keys, kv_heads, key_dim) = sizes(k);
        assert_eq!(sizes(v), (num_keys, kv_heads, key_dim), "values like the keys");
        assert_eq!(key_dim, head_dim, "keys as wide as queries");
        assert!(
            kv_heads > 0 && heads % kv_heads == 0,
            "{heads} query heads do not divide among {kv_heads} key/value heads"
        );
        assert_ne!(window, Some(0), "a window of no position sees nothing");
        Self {
            num_tokens,
            kv_heads,
            group: heads / kv_heads,
            head_dim,
            scale,
            window: window.unwrap_or(usize::MAX / 2),
        }
    }

    /// `scale · log2 e`: the kernels' exponentials are powers of two.
    pub(super) fn log2_scale(&self) -> f32 {
        (self.scale * std::f64::consts::LOG2_E) as f32
    }

    /// The first position that the query at `position` sees.
    pub(super) fn first_key(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }
}

/// A tensor `[t, heads, d]` in memory, heads together, tokens `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct View<'a, T> {
    data: &'a [T],
    stride: usize,
    head_dim: usize,
}

impl<'a, T: Number> View<'a, T> {
    /// Borrows a CPU tensor, or its contiguous copy put into `copy`.
    pub(super) fn of(tensor: &'a Tensor, copy: &'a mut Option<Tensor>) -> Self {
        let size = tensor.size();
        let stride = tensor.stride();
        let together = (size[2] <= 1 || stride[2] == 1) && (size[1] <= 1 || stride[1] == size[2]) && stride[0] >= 0;
        let tensor = if together {
            tensor
        } else {
            &*copy.insert(tensor.contiguous())
        };
        assert_eq!(tensor.kind(), T::KIND, "one dtype for all of attention");
        let stride = if size[0] <= 1 { 0 } else { tensor.stride()[0] as usize };
        let row = (size[1] * size[2]) as usize;
        let len = if size[0] == 0 {
            0
        } else {
            (size[0] as usize - 1) * stride + row
        };
        assert!(tensor.device() == Device::Cpu, "attention's kernels read CPU tensors");
        let data: &[T] = if len == 0 {
            &[]
        } else {
            // SAFETY: the elements that strides and sizes say lie in the tensor's memory, which `tensor` keeps alive;
            // nothing writes to it while this crate's function runs.
            unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>().cast_const(), len) }
        };
        Self {
            data,
            stride,
            head_dim: size[2] as usize,
        }
    }

    /// Rows of `group` heads from `head` on, of these tokens.
    pub(super) fn rows(&self, tokens: Range<usize>, head: usize, group: usize) -> HeadRows<'a, T> {
        HeadRows {
            data: self.data,
            first: tokens.start * self.stride + head * self.head_dim,
            stride: self.stride,
            group,
            width: self.head_dim,
            start: 0,
            len: tokens.len() * group,
        }
    }
}

/// Rows `r`: head `r % group` of token `r / group`.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a, T> {
    data: &'a [T],
    first: usize,
    stride: usize,
    group: usize,
    width: usize,
    start: usize,
    len: usize,
}

impl<T> HeadRows<'_, T> {
    /// The rows `range` of these.
    #[inline(always)]
    pub(super) fn part(self, range: Range<usize>) -> Self {
        Self {
            start: self.start + range.start,
            len: range.len(),
            ..self
        }
    }
}

impl<T: Copy> Rows<T> for HeadRows<'_, T> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn width(&self) -> usize {
        self.width
    }
    #[inline(always)]
    fn row(&self, i: usize) -> &[T] {
        let i = (self.start + i) as u32;
        let (token, head) = (i / self.group as u32, i % self.group as u32);
        &self.data[self.first + token as usize * self.stride + head as usize * self.width..][..self.width]
    }
}

/// Queries and the keys they look at.
#[derive(Clone)]
pub(super) struct Sequence<'a, T> {
    /// The queries' tokens in the row; they stand at the last positions of the keys.
    pub(super) queries: Range<usize>,
    /// The keys' tokens in `k` and `v`.
    pub(super) keys: Range<usize>,
    pub(super) k: View<'a, T>,
    pub(super) v: View<'a, T>,
}

impl<T> Sequence<'_, T> {
    /// The position of the first query.
    pub(super) fn offset(&self) -> usize {
        self.keys.len() - self.queries.len()
    }
}

/// Documents whose keys stand beside their queries.
pub(super) fn sequences<'a, T: Number>(documents: &Documents, k: View<'a, T>, v: View<'a, T>) -> Vec<Sequence<'a, T>> {
    documents
        .ranges()
        .map(|range| Sequence {
            queries: range.clone(),
            keys: range,
            k,
            v,
        })
        .collect()
}

/// Some queries of one sequence and one key/value head.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    /// Tokens within the sequence.
    pub(super) tokens: Range<usize>,
    /// Keys that they see, within the sequence; the first a multiple of [`BLOCK`].
    pub(super) keys: Range<usize>,
}

impl Task {
    /// Keys times queries, about.
    fn cost(&self) -> usize {
        self.tokens.len() * (self.keys.len() + BLOCK)
    }
}

/// All tasks, the longest first: a few for every thread, and no more parts of a sequence than that takes.
pub(super) fn tasks<T>(sequences: &[Sequence<T>], geometry: Geometry) -> Vec<Task> {
    const PER_THREAD: usize = 8;
    const FEWEST_TOKENS: usize = 64;
    let pairs = |sequence: &Sequence<T>| sequence.queries.len() * (sequence.offset() * 2 + sequence.queries.len());
    let total: usize = sequences.iter().map(pairs).sum();
    let wanted = PER_THREAD * parallel::num_threads();
    let mut tasks = Vec::new();
    for (index, sequence) in sequences.iter().enumerate() {
        let n = sequence.queries.len();
        let share = pairs(sequence) as f64 / total.max(1) as f64 * wanted as f64 / geometry.kv_heads as f64;
        let parts = (share.round() as usize).clamp(1, n.div_ceil(FEWEST_TOKENS));
        // Work grows with the square of the position.
        let cut = |i: usize| (n as f64 * (i as f64 / parts as f64).sqrt()).round() as usize;
        for kv_head in 0..geometry.kv_heads {
            for part in 0..parts {
                let tokens = cut(part)..cut(part + 1);
                if tokens.is_empty() {
                    continue;
                }
                let first = geometry.first_key(sequence.offset() + tokens.start);
                let keys = first / BLOCK * BLOCK..sequence.offset() + tokens.end;
                tasks.push(Task {
                    sequence: index,
                    kv_head,
                    tokens,
                    keys,
                });
            }
        }
    }
    tasks.sort_by_key(|task| std::cmp::Reverse(task.cost()));
    tasks
}

/// Some rows of a task, and which keys each may see.
#[derive(Clone)]
pub(super) struct RowBlock {
    /// Positions of the first and the last row.
    positions: [usize; 2],
    /// Keys that any row sees, rounded to blocks.
    pub(super) keys: Range<usize>,
    /// First key that every row sees, and the last one.
    common: [usize; 2],
}

impl RowBlock {
    /// Rows `rows` of a task whose first query stands at `position`.
    pub(super) fn new(geometry: Geometry, position: usize, rows: Range<usize>) -> Self {
        let positions = [rows.start, rows.end - 1].map(|row| position + row / geometry.group);
        Self {
            positions,
            keys: geometry.first_key(positions[0]) / BLOCK * BLOCK..whole(positions[1] + 1),
            common: [geometry.first_key(positions[1]), positions[0]],
        }
    }

    /// Whether some row does not see some of these keys.
    #[inline(always)]
    pub(super) fn cuts(&self, keys: Range<usize>) -> bool {
        keys.start < self.common[0] || keys.end > self.common[1] + 1
    }

    /// The keys that row `row` of the task sees, as lanes have them. Rows beyond the block see what its last one sees.
    #[inline(always)]
    pub(super) fn bounds(&self, geometry: Geometry, position: usize, row: usize) -> [f32; 2] {
        let last = (position + row / geometry.group).min(self.positions[1]);
        [geometry.first_key(last) as f32, last as f32]
    }

    /// Bounds of sixteen rows.
    #[inline(always)]
    pub(super) fn lane_bounds(&self, geometry: Geometry, position: usize, row: usize) -> [[f32; LANES]; 2] {
        let [mut firsts, mut lasts] = [[0.0; LANES]; 2];
        for (lane, (first, last)) in firsts.iter_mut().zip(&mut lasts).enumerate() {
            [*first, *last] = self.bounds(geometry, position, row + lane);
        }
        [firsts, lasts]
    }
}
