//! Which of several adapters a document is read with, and how much of each.
//!
//! Why documents carry it: the choice is a request's, and a row packs documents of several requests. All that is done
//! to a row is given its documents, so the choice reaches every layer, the head on single tokens included, and no layer
//! holds a switch. Indices, not names: whoever placed the adapters (an
//! [`AdapterRouting`] is read by what it placed) knows the names.

use std::ops::Range;

/// Adapters by their index in the model, each with the weight that its update has. Without any: the base alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterRouting(Vec<(usize, f64)>);

impl AdapterRouting {
    /// One adapter as it is.
    pub fn one(adapter: usize) -> Self {
        Self(vec![(adapter, 1.0)])
    }

    /// Adapters with weights; those of weight 0 take no part.
    pub fn of(shares: impl IntoIterator<Item = (usize, f64)>) -> Self {
        Self(shares.into_iter().filter(|(_, weight)| *weight != 0.0).collect())
    }

    /// No adapter.
    pub fn base() -> Self {
        Self::default()
    }

    /// Each adapter with its weight.
    pub fn shares(&self) -> &[(usize, f64)] {
        &self.0
    }
}

/// The routings of a row's documents, each kept once.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterRoutings {
    distinct: Vec<AdapterRouting>,
    /// For each document, which of them.
    of: Vec<usize>,
}

impl AdapterRoutings {
    pub(crate) fn new(mixes: &[AdapterRouting]) -> Self {
        let mut distinct: Vec<AdapterRouting> = Vec::new();
        let of = mixes
            .iter()
            .map(|mix| {
                distinct.iter().position(|known| known == mix).unwrap_or_else(|| {
                    distinct.push(mix.clone());
                    distinct.len() - 1
                })
            })
            .collect();
        Self { distinct, of }
    }

    /// The mixes there are, each once.
    pub fn distinct(&self) -> &[AdapterRouting] {
        &self.distinct
    }

    /// The mix of all documents, if it is one.
    pub fn uniform(&self) -> Option<&AdapterRouting> {
        match self.distinct.as_slice() {
            [mix] => Some(mix),
            _ => None,
        }
    }

    /// For each document, the index of its mix in [`Self::distinct`].
    pub fn of_documents(&self) -> &[usize] {
        &self.of
    }

    /// The mixes of other documents, each a part of one of these: `parents[i]` is what document i is a part of.
    pub(crate) fn of_parts(&self, parents: impl IntoIterator<Item = usize>) -> Self {
        Self {
            distinct: self.distinct.clone(),
            of: parents.into_iter().map(|parent| self.of[parent]).collect(),
        }
    }

    /// The mix of each document's tokens, in the row's order.
    pub(crate) fn ranges<'a>(
        &'a self,
        ranges: impl Iterator<Item = Range<usize>> + 'a,
    ) -> impl Iterator<Item = (Range<usize>, &'a AdapterRouting)> {
        ranges.zip(&self.of).map(|(range, &idx)| (range, &self.distinct[idx]))
    }
}
