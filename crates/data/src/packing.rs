//! Documents side by side in rows without padding: best fit, longest first.
//!
//! Each sample goes into the fullest row that still has room for it; a preference's two documents stay together.
//! Legend: t tokens of a row.

use std::collections::BTreeMap;

use crate::Tokenized;

/// Marks a position that predicts nothing.
pub const IGNORED: i64 = -100;

/// One row of documents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// Token ids, `[t]`.
    pub tokens: Vec<i64>,
    /// What each position predicts, `[t]`: the next token, or [`IGNORED`] where that is not learnt or is another's.
    pub targets: Vec<i64>,
    /// Tokens of each document, in order; their sum is t.
    pub lengths: Vec<usize>,
    /// Where each document came from.
    pub documents: Vec<DocumentId>,
}

/// A document's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentId {
    /// Which of the mixture's sets.
    pub set: usize,
    /// Which of the set's samples.
    pub sample: usize,
    /// Which of the sample's documents: of a preference, 0 is the better and 1 the worse.
    pub part: usize,
    /// Which of the step's samples it is of.
    pub place: usize,
    /// The sample's label.
    pub label: Option<i64>,
}

/// Assigns items to rows of at most `max_tokens`; an item longer than that has a row of its own.
///
/// Returns each row's items; rows in the order in which they were begun, items of a row in their own order.
///
/// ```
/// assert_eq!(data::best_fit(&[5, 3, 4, 2], 7), [vec![0, 3], vec![1, 2]]);
/// ```
pub fn best_fit(lengths: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&item| (std::cmp::Reverse(lengths[item]), item));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the room that they have left.
    let mut room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for item in order {
        let length = lengths[item];
        let fullest = room
            .range_mut(length..)
            .next()
            .and_then(|(&left, rows)| Some((left, rows.pop()?)));
        let (left, row) = fullest.unwrap_or_else(|| {
            rows.push(Vec::new());
            (max_tokens.max(length), rows.len() - 1)
        });
        if room.get(&left).is_some_and(Vec::is_empty) {
            room.remove(&left);
        }
        rows[row].push(item);
        room.entry(left - length).or_default().push(row);
    }
    for row in &mut rows {
        row.sort_unstable();
    }
    rows
}

impl Packed {
    /// Adds a document behind the others.
    pub fn push(&mut self, document: &Tokenized, id: DocumentId) {
        let Tokenized { tokens, trained } = document;
        self.tokens.extend(tokens.iter().map(|&token| i64::from(token)));
        let next = tokens.iter().zip(trained).skip(1);
        self.targets
            .extend(next.map(|(&token, &learnt)| if learnt { i64::from(token) } else { IGNORED }));
        if !tokens.is_empty() {
            self.targets.push(IGNORED);
        }
        self.lengths.push(tokens.len());
        self.documents.push(id);
    }

    /// Positions that predict something.
    pub fn num_targets(&self) -> usize {
        self.targets.iter().filter(|target| **target != IGNORED).count()
    }
}
