//! Documents: where each begins in a row of tokens. There is no padding and no mask.
//!
//! Shapes: t tokens of a row, n documents.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::adapter_routing::{AdapterRouting, AdapterRoutings};

/// The documents of one packed row `[t]`: offsets, positions that restart (or continue a past) in each, and perhaps the
/// adapters that each is read with.
#[derive(Debug, Clone, PartialEq)]
pub struct Documents {
    offsets: Vec<usize>,
    starts: Vec<usize>,
    mixes: Option<Arc<AdapterRoutings>>,
}

impl Documents {
    /// Documents of these lengths (tokens), one after the other, each beginning at position 0.
    ///
    /// # Panics
    /// If a length is 0: a document has at least one token.
    pub fn new(lengths: &[usize]) -> Self {
        Self::continuing(lengths, &vec![0; lengths.len()])
    }

    /// Documents whose first new token stands at position `starts[i]`: `starts[i]` tokens lie in the cache already.
    ///
    /// # Panics
    /// If the two slices differ in length, a length is 0, or a position is beyond what an `i32` holds.
    pub fn continuing(lengths: &[usize], starts: &[usize]) -> Self {
        assert_eq!(lengths.len(), starts.len(), "one start a document");
        let mut offsets = vec![0];
        for (&length, &start) in lengths.iter().zip(starts) {
            assert!(length > 0, "a document has at least one token");
            let end = offsets[offsets.len() - 1] + length.min(i32::MAX as usize);
            let reaches = start.saturating_add(length).max(end);
            assert!(
                i32::try_from(reaches).is_ok(),
                "a document of {length} tokens from position {start} on has positions beyond {}",
                i32::MAX
            );
            offsets.push(end);
        }
        Self {
            offsets,
            starts: starts.to_vec(),
            mixes: None,
        }
    }

    /// The same documents, each read with its own mix of the model's adapters; without, the model's default.
    ///
    /// # Panics
    /// If there is not one mix a document.
    #[must_use]
    pub fn with_routings(self, mixes: &[AdapterRouting]) -> Self {
        assert_eq!(mixes.len(), self.len(), "one mix a document");
        Self {
            mixes: Some(Arc::new(AdapterRoutings::new(mixes))),
            ..self
        }
    }

    /// The mixes, if any were given.
    pub fn routings(&self) -> Option<&AdapterRoutings> {
        self.mixes.as_deref()
    }

    /// Each document's tokens with its mix; nothing if none were given.
    pub fn mixed_ranges(&self) -> impl Iterator<Item = (Range<usize>, &AdapterRouting)> {
        self.routings()
            .into_iter()
            .flat_map(|mixes| mixes.ranges(self.ranges()))
    }

    /// Every document as one token: what a head sees of each one's last.
    #[must_use]
    pub fn one_token_each(&self) -> Self {
        Self {
            mixes: self.mixes.clone(),
            ..Self::new(&vec![1; self.len()])
        }
    }

    /// The tokens at these positions (`[m]` i64, ascending) of the row, as documents of one token each where documents
    /// are read differently, else as one.
    #[must_use]
    pub fn at(&self, positions: &Tensor) -> Self {
        let count = positions.numel();
        match self.routings().filter(|mixes| mixes.uniform().is_none() && count > 0) {
            None => Self {
                mixes: self.mixes.as_ref().map(|mixes| Arc::new(mixes.of_parts([0]))),
                ..Self::new(&[count.max(1)])
            },
            Some(mixes) => {
                let positions = positions.to_device(Device::Cpu);
                let parent = |idx: usize| {
                    let at = positions.int64_value(&[idx as i64]) as usize;
                    self.offsets.partition_point(|&offset| offset <= at) - 1
                };
                Self {
                    mixes: Some(Arc::new(mixes.of_parts((0..count).map(parent)))),
                    ..Self::new(&vec![1; count])
                }
            }
        }
    }

    /// n, the number of documents.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// t, the number of tokens in the row.
    pub fn num_tokens(&self) -> usize {
        self.offsets[self.len()]
    }

    /// `[n + 1]` token offsets: document i is `offsets[i]..offsets[i + 1]`.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// `[n]` the position of each document's first token in this row.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The token ranges of the documents, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// The longest document's tokens in this row.
    pub fn longest(&self) -> usize {
        self.ranges().map(|range| range.len()).max().unwrap_or(0)
    }

    /// `[t]` i32 positions, counted from each document's start.
    pub fn positions(&self) -> Vec<i32> {
        self.ranges()
            .zip(&self.starts)
            .flat_map(|(range, &start)| (0..range.len()).map(move |i| (start + i) as i32))
            .collect()
    }

    /// `[t]` i64: which document each token belongs to.
    pub fn ids(&self, device: Device) -> Tensor {
        let ids: Vec<i64> = self
            .ranges()
            .enumerate()
            .flat_map(|(id, range)| std::iter::repeat_n(id as i64, range.len()))
            .collect();
        Tensor::from_slice(&ids).to_device(device)
    }

    /// Sums a `[t]` tensor over each document: `[n]` of the same dtype, differentiable.
    pub fn sum(&self, per_token: &Tensor) -> Tensor {
        Tensor::zeros([self.len() as i64], (per_token.kind(), per_token.device())).index_add(
            0,
            &self.ids(per_token.device()),
            per_token,
        )
    }

    /// Index (`[n]` i64) of each document's last token: where a classifier reads.
    pub fn last_tokens(&self, device: Device) -> Tensor {
        let last: Vec<i64> = self.offsets[1..].iter().map(|&end| end as i64 - 1).collect();
        Tensor::from_slice(&last).to_kind(Kind::Int64).to_device(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_no_row_has_are_refused() {
        for (lengths, starts) in [
            (&[usize::MAX, 3][..], &[0, 0][..]),
            (&[5], &[usize::MAX]),
            (&[1 << 31], &[0]),
            (&[1 << 30, 1 << 30], &[0, 0]),
            (&[0], &[0]),
        ] {
            let made = std::panic::catch_unwind(|| Documents::continuing(lengths, starts));
            assert!(made.is_err(), "{lengths:?} from {starts:?}");
        }
    }

    #[test]
    fn positions_restart_in_each_document() {
        let documents = Documents::continuing(&[3, 2], &[0, 7]);
        assert_eq!(documents.positions(), [0, 1, 2, 7, 8]);
        assert_eq!(documents.offsets(), [0, 3, 5]);
        assert_eq!((documents.num_tokens(), documents.longest()), (5, 3));
    }

    #[test]
    fn a_document_keeps_its_mix_in_every_part_of_it() {
        let (a, b) = (
            AdapterRouting::one(0),
            AdapterRouting::of([(0, 0.5), (1, 2.0), (2, 0.0)]),
        );
        let documents = Documents::new(&[2, 3, 1]).with_routings(&[a.clone(), b.clone(), a.clone()]);
        assert_eq!(b.shares(), [(0, 0.5), (1, 2.0)]);
        let mixes = documents.routings().unwrap();
        assert_eq!(
            (mixes.distinct().len(), mixes.of_documents()),
            (2, [0, 1, 0].as_slice())
        );
        assert_eq!(documents.one_token_each().routings(), Some(mixes));
        let picked = documents.at(&Tensor::from_slice(&[0i64, 2, 4, 5]));
        let each: Vec<(Range<usize>, &AdapterRouting)> = picked.mixed_ranges().collect();
        assert_eq!(each, [(0..1, &a), (1..2, &b), (2..3, &b), (3..4, &a)]);
        // Read alike, or with no choice, they need not be told apart.
        let alike = Documents::new(&[2, 3]).with_routings(&[b.clone(), b.clone()]);
        let picked = alike.at(&Tensor::from_slice(&[1i64, 2, 4]));
        assert_eq!(
            (picked.len(), picked.num_tokens(), picked.routings().unwrap().uniform()),
            (1, 3, Some(&b))
        );
        assert!(
            Documents::new(&[2])
                .at(&Tensor::from_slice(&[1i64]))
                .routings()
                .is_none()
        );
    }

    #[test]
    fn sums_go_by_document() {
        let documents = Documents::new(&[3, 1]);
        let sums = documents.sum(&Tensor::from_slice(&[1.0f32, 2.0, 3.0, 10.0]));
        assert_eq!(Vec::<f32>::try_from(sums).unwrap(), [6.0, 10.0]);
    }
}
