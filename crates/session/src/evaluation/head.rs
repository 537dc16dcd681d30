//! Classification tasks on a model whose head gives classes: no answer is generated or scored.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use data::{Dataset, EncodeConfig, ReadConfig, encode};
use evaluate::{Kind, Report, Suite, Task, TaskReport, macro_f1};

use crate::Loaded;
use crate::adapters;
use crate::classifier::{self, Classified};

/// Every task of the suite, all of which must be classifications.
pub(super) fn measure(suite: &Suite, name: &str, loaded: &Loaded, labels: &[String]) -> Result<Report> {
    let mut report = Report {
        model: name.to_owned(),
        plain_prompts: None,
        tasks: [].into(),
    };
    for task in &suite.tasks {
        if task.kind != Kind::Classification {
            bail!(
                "task `{}`: the model has a classification head, which answers `kind = \"classification\"` only",
                task.name
            );
        }
        let found = classify(task, loaded, labels).with_context(|| format!("task `{}`", task.name))?;
        report.tasks.insert(task.name.clone(), found);
    }
    Ok(report)
}

fn classify(task: &Task, loaded: &Loaded, labels: &[String]) -> Result<TaskReport> {
    let begun = Instant::now();
    let reading = ReadConfig {
        keep: vec![adapters::COLUMN.to_owned()],
        ..task.reading()
    };
    let mut rows = Dataset::read(&task.data, &reading)?;
    rows.truncate(task.max_rows.unwrap_or(usize::MAX));
    let config = EncodeConfig {
        max_length: Some(task.max_length),
        labels: labels.to_vec(),
        ..EncodeConfig::default()
    };
    let mut documents = Vec::with_capacity(rows.len());
    let mut mixes = Vec::new();
    for idx in 0..rows.len() {
        let place = || rows.place(idx).to_string();
        let sample = encode(rows.row(idx), &loaded.tokenizer, &config)
            .with_context(place)?
            .swap_remove(0);
        let Some(label) = sample.label else {
            bail!("{}: wanted a row with `text` and `label`", place());
        };
        mixes.extend(loaded.mix(&rows, idx).with_context(place)?);
        documents.push((
            sample.documents.into_iter().next().unwrap_or_default().tokens,
            label as usize,
        ));
    }
    let lengths: Vec<usize> = documents.iter().map(|(tokens, _)| tokens.len()).collect();
    let mut confusion = vec![vec![0; labels.len()]; labels.len()];
    let work = loaded.source.events().begin(&task.name, documents.len());
    let tokens: Vec<&[u32]> = documents.iter().map(|(tokens, _)| tokens.as_slice()).collect();
    let outputs = classifier::outputs(loaded, &tokens, &mixes, &mut |read| work.advance(read))?;
    for ((_, label), logits) in documents.iter().zip(&outputs) {
        confusion[*label][Classified::of(logits).best] += 1;
    }
    drop(work);
    let right: usize = (0..labels.len()).map(|label| confusion[label][label]).sum();
    let share = right as f64 / documents.len() as f64;
    Ok(TaskReport {
        rows: documents.len(),
        seconds: begun.elapsed().as_secs_f64(),
        accuracy: Some(share),
        accuracy_stderr: Some((share * (1.0 - share) / documents.len() as f64).sqrt()),
        macro_f1: Some(macro_f1(&confusion)),
        confusion: Some(confusion),
        labels: Some(labels.to_vec()),
        tokens: Some(lengths.iter().sum()),
        ..TaskReport::of(task.kind)
    })
}
