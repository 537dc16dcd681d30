//! Documents: where each begins in a row of tokens. There is no padding and no mask.
//!
//! Shapes: t tokens of a row, n documents.

use tch::{Device, Kind, Tensor};

/// The documents of one packed row `[t]`: offsets, and positions that restart (or continue a past) in each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    offsets: Vec<usize>,
    starts: Vec<usize>,
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
    /// If the two slices differ in length or a length is 0.
    pub fn continuing(lengths: &[usize], starts: &[usize]) -> Self {
        assert_eq!(lengths.len(), starts.len(), "one start a document");
        let mut offsets = vec![0];
        for &length in lengths {
            assert!(length > 0, "a document has at least one token");
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        Self {
            offsets,
            starts: starts.to_vec(),
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
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
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
    fn positions_restart_in_each_document() {
        let documents = Documents::continuing(&[3, 2], &[0, 7]);
        assert_eq!(documents.positions(), [0, 1, 2, 7, 8]);
        assert_eq!(documents.offsets(), [0, 3, 5]);
        assert_eq!((documents.num_tokens(), documents.longest()), (5, 3));
    }

    #[test]
    fn sums_go_by_document() {
        let documents = Documents::new(&[3, 1]);
        let sums = documents.sum(&Tensor::from_slice(&[1.0f32, 2.0, 3.0, 10.0]));
        assert_eq!(Vec::<f32>::try_from(sums).unwrap(), [6.0, 10.0]);
    }
}
