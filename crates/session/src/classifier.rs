//! Models whose head gives classes or one number: their rows as tokens, what the head says of them, and what to do
//! where a verb wants a language model.
//!
//! Shapes: n documents, c classes.

use anyhow::{Result, bail};
use data::{EncodeConfig, Prompt, Row, Tokenizer, best_fit, encode};
use decoder::HeadKind;
use serde_json::{Map, Value, json};
use tch::{Device, Tensor};
use tensor_core::{AdapterRouting, Documents, blob};

use crate::Loaded;

/// Tokens that go through the model together.
const ROW_TOKENS: usize = 4096;

/// A row as the head reads it.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its documents' tokens: one, or the better and the worse reply of a preference.
    pub documents: Vec<Vec<u32>>,
    /// The text, as far as it is one.
    pub text: String,
    /// The class that the row itself gives: its number.
    pub label: Option<usize>,
}

/// What a classification head says of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// The likeliest class.
    pub best: usize,
    /// Each class's probability.
    pub probabilities: Vec<f64>,
}

/// The classes of a head that has several; none for a reward model's one number and for a vocabulary.
pub fn classes(kind: &HeadKind) -> Option<&[String]> {
    match kind {
        HeadKind::Classification { labels } if labels.len() > 1 => Some(labels),
        _ => None,
    }
}

/// A row's tokens, as training reads them, and the class that it gives; a row without one has none.
///
/// Errors: an empty text, more tokens than the model has positions, a class that is not the model's, a row that is no
/// text where the head gives classes.
pub fn input(row: &Row, loaded: &Loaded) -> Result<Input> {
    let tokenizer = &loaded.tokenizer;
    let classes = classes(loaded.model.head_kind());
    let (documents, label) = match (row, classes) {
        (Row::Labelled { text, label }, Some(classes)) => (
            vec![tokenizer.encode_whole(text)?],
            Some(label.number(classes)? as usize),
        ),
        (
            Row::Text(text)
            | Row::Labelled { text, .. }
            | Row::PromptOnly {
                prompt: Prompt::Text(text),
                ..
            },
            _,
        ) => (vec![tokenizer.encode_whole(text)?], None),
        (_, Some(_)) => bail!(
            "wanted a row with a `text` to classify, found one of another kind\n\
             hint: give rows {{\"text\": …}}, with a `label` to be compared with or without one"
        ),
        (row, None) => (replies(row, tokenizer)?, None),
    };
    let positions = loaded.model.max_positions();
    match documents
        .iter()
        .map(Vec::len)
        .find(|&length| length == 0 || length > positions)
    {
        None => {}
        Some(0) => bail!("the text is empty: wanted at least one token"),
        Some(found) => {
            bail!("the text has {found} tokens; the model sees {positions} positions\nhint: shorten or split it")
        }
    }
    Ok(Input {
        documents,
        text: row.input(),
        label,
    })
}

fn replies(row: &Row, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
    let samples = encode(row, tokenizer, &EncodeConfig::default())?;
    let documents = samples.into_iter().flat_map(|sample| sample.documents);
    Ok(documents.map(|document| document.tokens).collect())
}

/// The head's numbers `[c]` of each document, in f32; `read` hears how many documents were read.
///
/// `mixes` has one mix a document, or none where the model has no choice of adapters.
pub fn outputs(
    loaded: &Loaded,
    documents: &[&[u32]],
    mixes: &[AdapterRouting],
    read: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f32>>> {
    let lengths: Vec<usize> = documents.iter().map(|tokens| tokens.len()).collect();
    let mut outputs = vec![Vec::new(); documents.len()];
    for lot in best_fit(&lengths, ROW_TOKENS) {
        let tokens: Vec<i64> = lot
            .iter()
            .flat_map(|&idx| documents[idx].iter().map(|&token| i64::from(token)))
            .collect();
        let mut packed = Documents::new(&lot.iter().map(|&idx| lengths[idx]).collect::<Vec<_>>());
        if !mixes.is_empty() {
            packed = packed.with_routings(&lot.iter().map(|&idx| mixes[idx].clone()).collect::<Vec<_>>());
        }
        let tokens = Tensor::from_slice(&tokens).to_device(loaded.model.device());
        let logits = loaded
            .model
            .classify(&tokens, &packed)
            .to_device(Device::Cpu)
            .contiguous();
        let width = logits.size()[1] as usize;
        let numbers = blob::to_vec::<f32>(&logits);
        let rows = numbers.chunks_exact(width);
        for (&idx, row) in lot.iter().zip(rows) {
            if row.iter().any(|number| !number.is_finite()) {
                bail!(
                    "wanted finite numbers from the head, found NaN or infinity\n\
                     hint: the weights are damaged, or overflow in this dtype"
                );
            }
            outputs[idx] = row.to_vec();
        }
        read(lot.len());
    }
    Ok(outputs)
}

impl Classified {
    /// The softmax over a document's `[c]` logits.
    pub fn of(logits: &[f32]) -> Self {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit - most).exp()).collect();
        let sum: f64 = weights.iter().sum();
        Self {
            best: logits.iter().position(|logit| *logit == most).unwrap_or(0),
            probabilities: weights.iter().map(|weight| weight / sum).collect(),
        }
    }

    /// Its label, that label's probability, and every label's.
    pub fn as_json(&self, labels: &[String]) -> Map<String, Value> {
        let each: Map<String, Value> = (labels.iter().cloned())
            .zip(self.probabilities.iter().map(|probability| json!(probability)))
            .collect();
        Map::from_iter([
            ("label".to_owned(), json!(labels.get(self.best))),
            ("probability".to_owned(), json!(self.probabilities[self.best])),
            ("probabilities".to_owned(), Value::Object(each)),
        ])
    }

    /// `joy 93.1 %, anger 5.0 %, …`: the likeliest first, at most `most` of them.
    pub fn shown(&self, labels: &[String], most: usize) -> String {
        let mut order: Vec<usize> = (0..self.probabilities.len()).collect();
        order.sort_by(|&a, &b| self.probabilities[b].total_cmp(&self.probabilities[a]));
        let one = |&idx: &usize| {
            let label = labels.get(idx).map_or("?", String::as_str);
            format!("{label} {:.1} %", 100.0 * self.probabilities[idx])
        };
        let mut parts: Vec<String> = order.iter().take(most).map(one).collect();
        if order.len() > most {
            parts.push("…".into());
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_softmax_and_the_likeliest_label_comes_first() {
        // e^1, e^0, e^0 over their sum e + 2.
        let found = Classified::of(&[101.0, 100.0, 100.0]);
        let e = std::f64::consts::E;
        for (found, wanted) in found.probabilities.iter().zip([e, 1.0, 1.0]) {
            assert!((found - wanted / (e + 2.0)).abs() < 1e-12, "{found}");
        }
        let labels = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(found.shown(&labels, 2), "a 57.6 %, b 21.2 %, …");
        let json = found.as_json(&labels);
        assert_eq!(json["label"], "a");
        assert_eq!(json["probability"], json["probabilities"]["a"]);
        assert_eq!(Classified::of(&[-3.0, 2.0]).shown(&labels, 5), "b 99.3 %, a 0.7 %");
    }
}
