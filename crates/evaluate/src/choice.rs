//! Which of a row's own choices the model finds likeliest, and how any answer is scored.

use data::{Prompt, Tokenizer};
use tensor_core::AdapterRouting;

use crate::rows::listed;
use crate::{Error, Normalise, Result, Scorer, Task, TaskReport, packing, rows};

/// A prompt with one answer behind it.
pub(crate) struct Answered {
    pub(crate) tokens: Vec<u32>,
    pub(crate) answer_from: usize,
    bytes: usize,
}

pub(crate) fn multiple_choice(
    task: &Task,
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let questions = rows::questions(task, scorer, tokenizer)?;
    let mut answered = Vec::with_capacity(questions.len());
    let mut gold = Vec::with_capacity(questions.len());
    for (idx, question) in questions.iter().enumerate() {
        let refused = |wanted: &str, found: String| Error::Row {
            path: task.data.clone(),
            row: idx + 1,
            wanted: wanted.into(),
            found,
        };
        if question.choices.len() < 2 {
            return Err(refused(
                "at least two choices (`choices_field`)",
                format!("{}", question.choices.len()),
            ));
        }
        let right = question
            .choices
            .iter()
            .position(|choice| question.gold.contains(choice));
        gold.push(right.ok_or_else(|| refused("the right answer among the choices", listed(&question.gold)))?);
        let row = question
            .choices
            .iter()
            .map(|choice| self::answered(task, idx, &question.prompt, choice, tokenizer));
        answered.push(row.collect::<Result<Vec<_>>>()?);
    }
    let mixes = rows::mixes(task, scorer, questions.iter().map(|question| question.adapter.as_ref()))?;
    let sums = log_probs(scorer, &answered, &mixes, progress)?;
    let right = |normalise: Normalise| {
        let chosen = |row: usize| best(&normalised(&sums[row], &answered[row], normalise));
        (0..gold.len()).filter(|&row| chosen(row) == gold[row]).count()
    };
    Ok(TaskReport {
        accuracy_norm: Some(right(Normalise::PerByte) as f64 / gold.len().max(1) as f64),
        ..TaskReport::with_accuracy(task.kind, right(task.normalise), gold.len())
    })
}

/// The tokens of `prompt` (row `idx`) with `answer` as what follows it.
pub(crate) fn answered(
    task: &Task,
    idx: usize,
    prompt: &Prompt,
    answer: &str,
    tokenizer: &Tokenizer,
) -> Result<Answered> {
    let failed = |source| Error::Text {
        path: task.data.clone(),
        row: idx + 1,
        source,
    };
    let before = match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Turns(chat) => tokenizer.render_prompt(chat).map_err(failed)?,
    };
    let alone = rows::encoded(prompt, tokenizer).map_err(failed)?;
    let whole = format!("{before}{answer}");
    let tokens = match prompt {
        Prompt::Text(_) => tokenizer.encode_prompt(&whole),
        Prompt::Turns(_) => tokenizer.encode(&whole),
    };
    let tokens = tokens.map_err(failed)?;
    // A tokenizer may join the prompt's end with the answer's beginning: the answer then begins where the two differ.
    let shared = alone.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
    let answer_from = shared.min(tokens.len().saturating_sub(1)).max(1);
    if tokens.len() > task.max_length {
        let wanted = format!("at most `max_length` = {} tokens", task.max_length);
        return Err(Error::Row {
            path: task.data.clone(),
            row: idx + 1,
            wanted,
            found: format!("{} tokens", tokens.len()),
        });
    }
    Ok(Answered {
        tokens,
        answer_from,
        bytes: answer.len(),
    })
}

/// The log-probabilities of a row's answers, each divided as `normalise` says.
pub(crate) fn normalised(log_probs: &[f64], answered: &[Answered], normalise: Normalise) -> Vec<f64> {
    let each = log_probs.iter().zip(answered);
    each.map(|(log_prob, answer)| match normalise {
        Normalise::Sum => *log_prob,
        Normalise::PerToken => log_prob / (answer.tokens.len() - answer.answer_from) as f64,
        Normalise::PerByte => log_prob / answer.bytes.max(1) as f64,
    })
    .collect()
}

/// `[rows][answers]` log-probabilities of the answers, in nats; `mixes`: one a row, or none.
pub(crate) fn log_probs(
    scorer: &dyn Scorer,
    answered: &[Vec<Answered>],
    mixes: &[AdapterRouting],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<f64>>> {
    let flat: Vec<&Answered> = answered.iter().flatten().collect();
    let documents: Vec<Vec<u32>> = flat.iter().map(|answer| answer.tokens.clone()).collect();
    let mut each = Vec::with_capacity(flat.len());
    let of_answers = |(mix, row): (&AdapterRouting, &Vec<Answered>)| std::iter::repeat_n(mix.clone(), row.len());
    let mixes: Vec<AdapterRouting> = mixes.iter().zip(answered).flat_map(of_answers).collect();
    packing::rows(&documents, &mixes, |first, tokens, row| -> Result<()> {
        let each_token = scorer.log_probs(tokens, row)?;
        for (range, answer) in row.ranges().zip(&flat[first..]) {
            let sum: f64 = each_token[range.start + answer.answer_from..range.end]
                .iter()
                .map(|&p| f64::from(p))
                .sum();
            each.push(sum);
        }
        progress(first + row.len(), flat.len());
        Ok(())
    })?;
    let mut each = each.into_iter();
    Ok(answered
        .iter()
        .map(|row| each.by_ref().take(row.len()).collect())
        .collect())
}

/// The index of the largest score; the first of equals.
pub(crate) fn best(scores: &[f64]) -> usize {
    (0..scores.len()).fold(0, |best, idx| if scores[idx] > scores[best] { idx } else { best })
}
