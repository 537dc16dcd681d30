//! Which of two replies the model finds likelier: the better one, it is hoped.
//!
//! Replies are cut at `max_length` as in training, and such pairs are counted; a pair of one and the same reply, from the
//! start or once cut, has no better one: it is counted and left out.

use std::borrow::Cow;

use data::{EncodeConfig, Row, Tokenizer, encode};
use tensor_core::AdapterRouting;

use crate::{Error, Normalise, Result, Scorer, Task, TaskReport, packing, rows};

pub(crate) fn pairs(
    task: &Task,
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let dataset = rows::read(task)?;
    let config = EncodeConfig {
        max_length: Some(task.max_length),
        ..EncodeConfig::default()
    };
    let (mut documents, mut trained) = (Vec::new(), Vec::new());
    // Pairs of two different replies, and how many were cut.
    let (mut kept, mut cut) = (Vec::new(), 0);
    let count = dataset.len().min(task.max_rows.unwrap_or(usize::MAX));
    let form = rows::form(scorer, tokenizer);
    for idx in 0..count {
        let row = &*form.map_or(Cow::Borrowed(dataset.row(idx)), |form| form.of_row(dataset.row(idx)));
        if !matches!(row, Row::Preference { .. }) {
            return Err(rows::refused(
                task,
                idx,
                "two replies, `chosen` and `rejected`",
                row.kind(),
            ));
        }
        let failed = |source| Error::Text {
            path: task.data.clone(),
            row: idx + 1,
            source,
        };
        let sample = encode(row, tokenizer, &config).map_err(failed)?.remove(0);
        cut += usize::from(sample.truncated);
        if let [chosen, rejected] = &sample.documents[..]
            && chosen.tokens == rejected.tokens
        {
            continue;
        }
        kept.push(idx);
        for document in sample.documents {
            documents.push(document.tokens);
            trained.push(document.trained);
        }
    }
    if kept.is_empty() {
        return Err(Error::Task {
            task: task.name.clone(),
            found: format!(
                "none of {count} pairs has two different replies of at most `max_length` = {} tokens",
                task.max_length
            ),
            hint:
                "look at the rows with `finetune inspect`; where they differ only behind `max_length`, make it larger"
                    .into(),
        });
    }
    let alike = count - kept.len();
    let chosen = rows::mixes(task, scorer, kept.iter().map(|&idx| dataset.kept(idx, rows::ADAPTER)))?;
    let mixes: Vec<AdapterRouting> = chosen.iter().flat_map(|mix| [mix.clone(), mix.clone()]).collect();
    // Log-probability and length of each reply, as the model's tokens or as bytes.
    let mut sums = Vec::with_capacity(documents.len());
    packing::rows(&documents, &mixes, |first, tokens, row| {
        let scores = scorer.log_probs(tokens, row)?;
        for (at, range) in row.ranges().enumerate() {
            let learnt = trained[first + at]
                .iter()
                .zip(&scores[range.clone()])
                .zip(&tokens[range]);
            let learnt: Vec<(f64, u32)> = learnt
                .filter(|((trained, _), _)| **trained)
                .map(|((_, score), token)| (f64::from(*score), *token))
                .collect();
            let ids: Vec<u32> = learnt.iter().map(|(_, token)| *token).collect();
            let length = match task.normalise {
                Normalise::Sum => 1,
                Normalise::PerToken => ids.len(),
                Normalise::PerByte => tokenizer.decode_all(&ids).map_or(0, |text| text.len()),
            };
            sums.push(learnt.iter().map(|(score, _)| score).sum::<f64>() / length.max(1) as f64);
        }
        progress(sums.len(), documents.len());
        Ok::<(), Error>(())
    })?;
    let pairs = || sums.chunks_exact(2);
    let mean = |of: &dyn Fn(&[f64]) -> f64| Some(pairs().map(of).sum::<f64>() / kept.len() as f64);
    let right = pairs().filter(|pair| pair[0] > pair[1]).count();
    Ok(TaskReport {
        margin: mean(&|pair| pair[0] - pair[1]),
        chosen_log_prob: mean(&|pair| pair[0]),
        rejected_log_prob: mean(&|pair| pair[1]),
        cut: (cut > 0).then_some(cut),
        alike: (alike > 0).then_some(alike),
        ..TaskReport::with_accuracy(task.kind, right, kept.len())
    })
}
