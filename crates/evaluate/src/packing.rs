//! Documents into rows of a few thousand tokens, in order: nothing is padded.

use tensor_core::Documents;

/// Tokens of a row.
const ROW: usize = 4096;

/// Calls `body` with each row of documents: the index of its first, their tokens in one piece, and where each begins.
pub(crate) fn rows<E>(
    documents: &[Vec<u32>],
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
        body(first, &row.concat(), &Documents::new(&lengths))?;
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
        rows::<()>(&documents, |first, tokens, row| {
            assert_eq!(tokens.len(), row.num_tokens());
            met.push((first, row.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!(met, [(0, 2), (2, 1), (3, 1), (4, 1)]);
    }
}
