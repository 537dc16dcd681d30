//! Whether the greedy answer is the right one, and how many of its words are.

use std::collections::HashMap;

use data::Tokenizer;

use crate::{Drawing, Error, Result, Scorer, Task, TaskReport, rows};

/// Prompts that are handed over at a time: many, so that others take the places of those that have ended.
const BATCH: usize = 256;

pub(crate) fn exact_match(
    task: &Task,
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let questions = rows::questions(task, scorer, tokenizer)?;
    let mixes = rows::mixes(task, scorer, questions.iter().map(|question| question.adapter.as_ref()))?;
    let failed = |row: usize, source| Error::Text {
        path: task.data.clone(),
        row: row + 1,
        source,
    };
    let (mut exact, mut f1) = (0, 0.0);
    for (batch, part) in questions.chunks(BATCH).enumerate() {
        let first = batch * BATCH;
        let prompt = |(at, question): (usize, &rows::Question)| -> Result<Vec<u32>> {
            let tokens = rows::encoded(&question.prompt, tokenizer).map_err(|source| failed(first + at, source))?;
            rows::fits(task, first + at, &tokens, scorer)?;
            Ok(tokens)
        };
        let prompts = part.iter().enumerate().map(prompt).collect::<Result<Vec<_>>>()?;
        let mixes = mixes.get(first..first + part.len()).unwrap_or_default();
        let greedy = Drawing {
            max_new_tokens: task.max_new_tokens,
            temperature: 0.0,
            seed: 0,
        };
        for (at, (said, question)) in scorer.answer(&prompts, mixes, &greedy)?.iter().zip(part).enumerate() {
            let answer = tokenizer
                .decode(&said.tokens)
                .map_err(|source| failed(first + at, source))?;
            exact += usize::from(question.gold.iter().any(|gold| spaced(gold) == spaced(&answer)));
            f1 += question
                .gold
                .iter()
                .map(|gold| word_f1(gold, &answer))
                .fold(0.0, f64::max);
        }
        progress(first + part.len(), questions.len());
    }
    let rows = questions.len().max(1) as f64;
    Ok(TaskReport {
        rows: questions.len(),
        exact_match: Some(exact as f64 / rows),
        word_f1: Some(f1 / rows),
        ..TaskReport::of(task.kind)
    })
}

/// A text with its white space made single.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The harmonic mean of precision and recall over words, without case.
pub fn word_f1(gold: &str, answer: &str) -> f64 {
    let words = |text: &str| {
        text.to_lowercase()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (gold, answer) = (words(gold), words(answer));
    if gold.is_empty() || answer.is_empty() {
        return f64::from(gold.is_empty() && answer.is_empty());
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &gold {
        *left.entry(word).or_default() += 1;
    }
    let mut shared = 0;
    for word in &answer {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    2.0 * f64::from(shared) / (gold.len() + answer.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_often_as_they_occur() {
        // Two of gold's three and of the answer's four words are shared: 2 · 2 / 7.
        assert!((word_f1("the cat sat", "The dog sat sat") - 4.0 / 7.0).abs() < 1e-12);
        assert!((word_f1("", "") - 1.0).abs() < 1e-12);
        assert!(word_f1("a", "").abs() < 1e-12);
    }
}
