//! Documents into rows of a few thousand tokens, in order: nothing is padded.

use tensor_core::{AdapterRouting, Documents};

/// Tokens of a row.
const ROW: usize = 4096;

/// Calls `body` with each row of documents: the index of its first, their tokens in one piece, and where each begins.
///
/// `mixes`: one a document, or none at all.
pub(crate) fn rows<E>(
    documents: &[Vec<u32>],
    mixes: &[AdapterRouting],
    mut body: impl FnMut(usize, &[u32], &Documents) -> Result<(), E>,
) -> Result<(), E> {
    let mut first = 0;
    while first < documents.len() {
        let mut total = 0;
        let count = documents[first..]
            .iter()
            .take_while(|document| {
                total += document.len();
                total <= ROW
            })
            .count()
            .max(1);
        let row = &documents[first..first + count];
        let lengths: Vec<usize> = row.iter().map(Vec::len).collect();
        let mut row_documents = Documents::new(&lengths);
        if !mixes.is_empty() {
            row_documents = row_documents.with_routings(&mixes[first..first + count]);
        }
        body(first, &row.concat(), &row_documents)?;
        first += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_met_once_and_long_ones_stand_alone() {
        let documents: Vec<Vec<u32>> = [3000, 1000, 97, 5000, 1]
            .iter()
            .map(|&length| vec![7; length])
            .collect();
        let mut met = Vec::new();
        let mixes: Vec<AdapterRouting> = (0..5).map(AdapterRouting::one).collect();
        rows::<()>(&documents, &mixes, |first, tokens, row| {
            assert_eq!(tokens.len(), row.num_tokens());
            assert!(
                row.mixed_ranges()
                    .map(|(_, mix)| mix)
                    .eq(&mixes[first..first + row.len()])
            );
            met.push((first, row.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!(met, [(0, 2), (2, 1), (3, 1), (4, 1)]);
    }
}
