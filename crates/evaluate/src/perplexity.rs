//! Perplexity and bits per byte, over windows that overlap by `max_length - stride` tokens.
//!
//! Each token but a text's first is scored once. Where the model wants a BOS token it stands first, so that every token
//! of the text is scored. `bits per byte = -log₂ P / bytes`, both of the tokens that are scored, compares models with
//! different tokenizers, with a BOS token and without.

use data::{Problem, Tokenizer};

use crate::{Error, Result, Scorer, Task, TaskReport, packing, rows};

/// One window: its tokens, and the first of them that is scored.
struct Window {
    tokens: Vec<u32>,
    scored_from: usize,
}

pub(crate) fn perplexity(
    task: &Task,
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let texts = rows::texts(task, scorer, tokenizer)?;
    let (mut bytes, mut used) = (0, 0);
    let row_mixes = rows::mixes(task, scorer, texts.iter().map(|whole| whole.adapter.as_ref()))?;
    let (mut windows, mut mixes) = (Vec::new(), Vec::new());
    for (row, rows::Whole { text, tokens, .. }) in texts.iter().enumerate() {
        if tokens.len() < 2 {
            continue;
        }
        used += 1;
        // The first token of a text is not predicted, unless a BOS token stands before it: nor do its bytes count.
        bytes += text.len()
            - unpredicted(text, tokens, tokenizer).map_err(|source| Error::Text {
                path: task.data.clone(),
                row: row + 1,
                source,
            })?;
        windows.extend(split(tokens, task.max_length, task.stride.unwrap_or(task.max_length)));
        if let Some(mix) = row_mixes.get(row) {
            mixes.resize(windows.len(), mix.clone());
        }
    }
    if windows.is_empty() {
        let found = "no text has two tokens".to_owned();
        return Err(Error::Task {
            task: task.name.clone(),
            found,
            hint: "give it longer texts".into(),
        });
    }
    let documents: Vec<Vec<u32>> = windows.iter().map(|window| window.tokens.clone()).collect();
    let (mut sum, mut count) = (0.0, 0usize);
    packing::rows(&documents, &mixes, |first, tokens, row| -> Result<()> {
        let scores = scorer.log_probs(tokens, row)?;
        for (range, window) in row.ranges().zip(&windows[first..]) {
            let scored = &scores[range.start + window.scored_from..range.end];
            sum += scored.iter().map(|&score| f64::from(score)).sum::<f64>();
            count += scored.len();
        }
        progress(first + row.len(), windows.len());
        Ok(())
    })?;
    Ok(TaskReport {
        rows: used,
        perplexity: Some((-sum / count as f64).exp()),
        bits_per_byte: Some(-sum / std::f64::consts::LN_2 / bytes as f64),
        tokens: Some(count),
        bytes: Some(bytes),
        ..TaskReport::of(task.kind)
    })
}

/// The bytes of `text` that no token of its `tokens` predicts: its first token's, if that is no BOS token.
pub fn unpredicted(text: &str, tokens: &[u32], tokenizer: &Tokenizer) -> Result<usize, Problem> {
    let pieces = tokenizer.encode_pieces(text)?;
    let starts_with_bos = !tokens.starts_with(&pieces.tokens);
    Ok(match pieces.bytes.first() {
        Some(first) if !starts_with_bos => first.end.min(text.len()),
        _ => 0,
    })
}

fn split(tokens: &[u32], length: usize, stride: usize) -> Vec<Window> {
    // A window begins at least one token before the first that it scores.
    let overlap = (length - stride).max(1);
    let mut windows = Vec::new();
    let (mut begin, mut scored) = (0, 1);
    loop {
        let end = tokens.len().min(begin + length);
        windows.push(Window {
            tokens: tokens[begin..end].to_vec(),
            scored_from: scored - begin,
        });
        if end == tokens.len() {
            return windows;
        }
        (begin, scored) = (end - overlap, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_score_every_token_but_the_first_once() {
        let tokens: Vec<u32> = (0..23).collect();
        for (length, stride) in [(23, 23), (10, 10), (10, 4), (2, 2), (2, 1), (7, 1), (100, 50)] {
            let scored: Vec<u32> = split(&tokens, length, stride)
                .iter()
                .flat_map(|window| window.tokens[window.scored_from..].to_vec())
                .collect();
            assert_eq!(scored, (1..23).collect::<Vec<u32>>(), "{length} by {stride}");
            assert!(
                split(&tokens, length, stride)
                    .iter()
                    .all(|window| window.tokens.len() <= length && window.scored_from > 0)
            );
        }
    }
}
