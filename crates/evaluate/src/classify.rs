//! Which of a fixed set of answers the model finds likeliest: accuracy and macro-F1.

use data::{Prompt, Tokenizer};
use tensor_core::AdapterRouting;

use crate::choice::{self, Answered};
use crate::rows::{self, Question, listed};
use crate::{Error, Normalise, Result, Scorer, Task, TaskReport, packing};

pub(crate) fn classify(
    task: &Task,
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let questions = rows::questions(task, scorer, tokenizer)?;
    let labels = if task.labels.is_empty() {
        labels_of(&questions)
    } else {
        task.labels.clone()
    };
    if labels.len() < 2 {
        let found = format!("the data has {} class", labels.len());
        return Err(Error::Task {
            task: task.name.clone(),
            found,
            hint: "name the classes with `labels`".into(),
        });
    }
    let gold: Vec<usize> = questions
        .iter()
        .enumerate()
        .map(|(idx, question)| gold_of(task, idx, question, &labels))
        .collect::<Result<_>>()?;
    let prompts: Vec<&Prompt> = questions.iter().map(|question| &question.prompt).collect();
    let mixes = rows::mixes(task, scorer, questions.iter().map(|question| question.adapter.as_ref()))?;
    let scores = label_scores(task, scorer, tokenizer, &prompts, &mixes, &labels, progress)?;
    let mut confusion = vec![vec![0; labels.len()]; labels.len()];
    for (scores, &gold) in scores.iter().zip(&gold) {
        confusion[gold][choice::best(scores)] += 1;
    }
    let right: usize = (0..labels.len()).map(|class| confusion[class][class]).sum();
    Ok(TaskReport {
        rows: questions.len(),
        macro_f1: Some(macro_f1(&confusion)),
        confusion: Some(confusion),
        labels: Some(labels),
        ..TaskReport::with_accuracy(task.kind, right, questions.len())
    })
}

/// The mean over classes of the harmonic mean of precision and recall; `confusion[gold][predicted]`.
///
/// A class that neither occurs nor is predicted does not count.
pub fn macro_f1(confusion: &[Vec<usize>]) -> f64 {
    let scores: Vec<f64> = (0..confusion.len())
        .filter_map(|class| {
            let occurs: usize = confusion[class].iter().sum();
            let predicted: usize = confusion.iter().map(|row| row[class]).sum();
            let both = occurs + predicted;
            (both > 0).then(|| 2.0 * confusion[class][class] as f64 / both as f64)
        })
        .collect();
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

fn labels_of(questions: &[Question]) -> Vec<String> {
    let mut labels: Vec<String> = questions.iter().flat_map(|question| question.gold.clone()).collect();
    labels.sort();
    labels.dedup();
    labels
}

fn gold_of(task: &Task, idx: usize, question: &Question, labels: &[String]) -> Result<usize> {
    let found = question.gold.first().cloned().unwrap_or_default();
    labels
        .iter()
        .position(|label| *label == found)
        .ok_or_else(|| Error::Row {
            path: task.data.clone(),
            row: idx + 1,
            wanted: format!("one of the labels {}", listed(labels)),
            found: format!("`{found}`"),
        })
}

/// `[rows][labels]` scores. Labels of one token each are all read after one pass over the prompt.
fn label_scores(
    task: &Task,
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    prompts: &[&Prompt],
    mixes: &[AdapterRouting],
    labels: &[String],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<f64>>> {
    let answered: Vec<Vec<Answered>> = prompts
        .iter()
        .enumerate()
        .map(|(idx, prompt)| {
            labels
                .iter()
                .map(|label| choice::answered(task, idx, prompt, label, tokenizer))
                .collect()
        })
        .collect::<Result<_>>()?;
    let Some(tokens) = one_token_each(&answered).filter(|_| task.normalise == Normalise::Sum) else {
        let sums = choice::log_probs(scorer, &answered, mixes, progress)?;
        let rows = sums.iter().zip(&answered);
        return Ok(rows
            .map(|(sums, row)| choice::normalised(sums, row, task.normalise))
            .collect());
    };
    let documents: Vec<Vec<u32>> = answered
        .iter()
        .map(|row| row[0].tokens[..row[0].answer_from].to_vec())
        .collect();
    let mut scores = Vec::with_capacity(documents.len());
    packing::rows(&documents, mixes, |first, row, documents| -> Result<()> {
        let next = scorer.next_log_probs(row, documents, &tokens)?;
        scores.extend(
            next.into_iter()
                .map(|row| row.into_iter().map(f64::from).collect::<Vec<_>>()),
        );
        progress(first + documents.len(), prompts.len());
        Ok(())
    })?;
    Ok(scores)
}

/// The labels' tokens, if in every row each label is the same single token after the same prompt.
fn one_token_each(answered: &[Vec<Answered>]) -> Option<Vec<u32>> {
    let last = |row: &[Answered]| -> Option<Vec<u32>> {
        let from = row.first()?.answer_from;
        row.iter()
            .map(|a| (a.answer_from == from && a.tokens.len() == from + 1).then(|| a.tokens[from]))
            .collect()
    };
    let first = last(answered.first()?)?;
    answered
        .iter()
        .all(|row| last(row).as_ref() == Some(&first))
        .then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macro_f1_is_the_mean_of_the_classes() {
        // Class 0: 8 right of 10, 3 wrongly predicted: F1 16/21. Class 1: 2 of 5, 2 wrongly: F1 4/9.
        let confusion = vec![vec![8, 2], vec![3, 2]];
        assert!((macro_f1(&confusion) - f64::midpoint(16.0 / 21.0, 4.0 / 9.0)).abs() < 1e-12);
    }

    #[test]
    fn always_the_same_answer_has_a_low_macro_f1() {
        assert!((macro_f1(&[vec![50, 0], vec![50, 0]]) - 1.0 / 3.0).abs() < 1e-12);
    }
}
