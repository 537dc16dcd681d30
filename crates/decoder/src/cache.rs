//! Keys and values of the past, one store a sequence and layer, in buffers that grow by doubling.
//!
//! Shapes: t tokens of a pass, h heads, k key-value heads, c head width, p rows kept. The i-th document of a pass
//! continues the i-th sequence. A layer with a window forgets what no later query can see.

use std::cell::RefCell;

use kernels::SequenceKv;
use tch::Tensor;
use tensor_core::{Documents, PastKeyValues};

/// The past of a batch of sequences.
#[derive(Debug, Default)]
pub struct KvCache {
    sequences: RefCell<Vec<Sequence>>,
}

#[derive(Debug, Default)]
struct Sequence {
    layers: Vec<Store>,
}

/// One layer's keys and values of one sequence.
#[derive(Debug)]
struct Store {
    /// `[capacity, k, c]`; the first `rows` are in use.
    keys: Tensor,
    values: Tensor,
    /// The position of the first row.
    first: usize,
    rows: usize,
}

impl KvCache {
    /// Room for this many sequences, each without a past.
    pub fn new(num_sequences: usize) -> Self {
        Self {
            sequences: RefCell::new((0..num_sequences).map(|_| Sequence::default()).collect()),
        }
    }

    /// How many sequences there are.
    pub fn len(&self) -> usize {
        self.sequences.borrow().len()
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many positions of each sequence lie in the cache.
    pub fn lengths(&self) -> Vec<usize> {
        let sequences = self.sequences.borrow();
        sequences
            .iter()
            .map(|sequence| sequence.layers.first().map_or(0, Store::end))
            .collect()
    }

    /// Bytes held.
    pub fn num_bytes(&self) -> usize {
        let bytes = |x: &Tensor| x.numel() * x.kind().elt_size_in_bytes();
        let sequences = self.sequences.borrow();
        let stores = sequences.iter().flat_map(|sequence| &sequence.layers);
        stores.map(|store| bytes(&store.keys) + bytes(&store.values)).sum()
    }

    /// Adds the sequences of `other` behind these.
    pub fn append(&mut self, other: Self) {
        self.sequences.get_mut().extend(other.sequences.into_inner());
    }

    /// Drops the sequences for which `keep` says no; the others move up.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut idx = 0;
        self.sequences.get_mut().retain(|_| {
            idx += 1;
            keep(idx - 1)
        });
    }
}

impl PastKeyValues for KvCache {
    fn attend(
        &self,
        layer_idx: usize,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        documents: &Documents,
        scale: f64,
        window: Option<usize>,
    ) -> Tensor {
        let mut sequences = self.sequences.borrow_mut();
        assert_eq!(sequences.len(), documents.len(), "one document a sequence");
        for ((sequence, range), &start) in sequences.iter_mut().zip(documents.ranges()).zip(documents.starts()) {
            while sequence.layers.len() <= layer_idx {
                sequence.layers.push(Store::like(keys));
            }
            let store = &mut sequence.layers[layer_idx];
            assert_eq!(store.end(), start, "a document continues where its past ends");
            let part = |x: &Tensor| x.narrow(0, range.start as i64, range.len() as i64);
            store.push(&part(keys), &part(values), window);
        }
        if documents.starts().iter().all(|&start| start == 0) {
            return kernels::attention(queries, keys, values, documents, scale, window);
        }
        let rows: Vec<(Tensor, Tensor)> = sequences.iter().map(|s| s.layers[layer_idx].in_use()).collect();
        let rows: Vec<SequenceKv> = rows.iter().map(|(keys, values)| SequenceKv { keys, values }).collect();
        kernels::attend_past(queries, &rows, documents, scale, window)
    }
}

impl Store {
    fn like(keys: &Tensor) -> Self {
        let (_, k, c) = keys.size3().expect("keys are [t, k, c]");
        let empty = || Tensor::empty([0, k, c], (keys.kind(), keys.device()));
        Self {
            keys: empty(),
            values: empty(),
            first: 0,
            rows: 0,
        }
    }

    /// The position after the last row.
    fn end(&self) -> usize {
        self.first + self.rows
    }

    /// The keys and values `[p, k, c]` that are in use.
    fn in_use(&self) -> (Tensor, Tensor) {
        let rows = |buffer: &Tensor| buffer.narrow(0, 0, self.rows as i64);
        (rows(&self.keys), rows(&self.values))
    }

    /// Adds rows; those that the window hides from these rows' own queries on are dropped first.
    fn push(&mut self, keys: &Tensor, values: &Tensor, window: Option<usize>) {
        let added = keys.size()[0] as usize;
        if let Some(window) = window {
            // The first added query sees `window - 1` rows back; dropping in bulk moves each row about once.
            let needed = window - 1;
            if self.rows > needed && (self.rows >= 2 * window || self.rows + added > self.capacity()) {
                self.drop_first(self.rows - needed, 2 * window + added);
            }
        }
        self.grow(self.rows + added);
        let (start, length) = (self.rows as i64, added as i64);
        self.keys.narrow(0, start, length).copy_(keys);
        self.values.narrow(0, start, length).copy_(values);
        self.rows += added;
    }

    fn capacity(&self) -> usize {
        self.keys.size()[0] as usize
    }

    fn drop_first(&mut self, count: usize, capacity: usize) {
        self.first += count;
        self.rows -= count;
        self.move_to(count, capacity);
    }

    fn grow(&mut self, rows: usize) {
        if rows > self.capacity() {
            let capacity = if self.rows == 0 {
                rows
            } else {
                rows.max(2 * self.capacity())
            };
            self.move_to(0, capacity);
        }
    }

    /// New buffers that hold the `self.rows` rows from `start` on.
    fn move_to(&mut self, start: usize, capacity: usize) {
        let (start, rows) = (start as i64, self.rows as i64);
        for buffer in [&mut self.keys, &mut self.values] {
            let mut shape = buffer.size();
            shape[0] = capacity.next_multiple_of(32) as i64;
            let moved = Tensor::empty(&shape, (buffer.kind(), buffer.device()));
            moved.narrow(0, 0, rows).copy_(&buffer.narrow(0, start, rows));
            *buffer = moved;
        }
    }
}
