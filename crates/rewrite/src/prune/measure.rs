//! What a model takes and how good it is: held together before and after.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use data::Tokenizer;
use decoder::{Decoder, EndTokens, GenerateOptions, HeadKind};
use evaluate::{Suite, Task};
use tch::Tensor;
use tensor_core::{Documents, Parameters, Pass};

/// One model's numbers.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Numbers in it, a tied head once.
    pub parameters: usize,
    /// Of them, those that are not zero.
    pub nonzero: usize,
    /// What they take in a file.
    pub bytes: usize,
    /// Tokens read in a second, in one pass.
    pub read_per_second: f64,
    /// Tokens written in a second, one after the other; none of a model that does not write.
    pub written_per_second: Option<f64>,
    /// On the text that was given.
    pub perplexity: Option<f64>,
}

/// Tokens of a pass, and tokens written.
const READ: usize = 1024;
const WRITTEN: usize = 32;

impl Measured {
    /// Of `model`; perplexity on `text` if there is one.
    pub fn of(model: &Decoder, tokenizer: &Tokenizer, text: Option<&Path>) -> Result<Self> {
        let (mut parameters, mut nonzero, mut bytes) = (0, 0, 0);
        model.visit(&tensor_core::ModulePath::root(), &mut |_, param| {
            let value = param.value();
            parameters += value.numel();
            nonzero += value.count_nonzero(None::<i64>).int64_value(&[]) as usize;
            bytes += value.numel() * value.kind().elt_size_in_bytes();
        });
        Ok(Self {
            parameters,
            nonzero,
            bytes,
            read_per_second: read_per_second(model),
            written_per_second: written_per_second(model)?,
            perplexity: text.map(|text| perplexity(model, tokenizer, text)).transpose()?,
        })
    }
}

fn perplexity(model: &Decoder, tokenizer: &Tokenizer, text: &Path) -> Result<f64> {
    let length = model.max_positions().min(READ);
    let task = Task::perplexity("text", text.to_owned(), length);
    let suite = Suite { tasks: vec![task] };
    let report = evaluate::evaluate(&suite, "", model, tokenizer, &mut |_, _, _| ()).context("`--eval`")?;
    let found = report.tasks.into_values().find_map(|task| task.perplexity);
    found.context("`--eval`: the text has no perplexity")
}

/// The quickest of three passes, after one that packs weights: whatever else the machine does only slows it down.
fn read_per_second(model: &Decoder) -> f64 {
    let length = READ.min(model.max_positions());
    let tokens: Vec<i64> = some_tokens(model, length).into_iter().map(i64::from).collect();
    let tokens = Tensor::from_slice(&tokens).to_device(model.device());
    let documents = Documents::new(&[length]);
    let pass = || {
        let begun = Instant::now();
        // Reading a number back waits for the device.
        let _ = model.hidden(&tokens, &Pass::evaluate(&documents)).double_value(&[0, 0]);
        begun.elapsed().as_secs_f64()
    };
    pass();
    let least = (0..3).map(|_| pass()).fold(f64::INFINITY, f64::min);
    length as f64 / least
}

fn written_per_second(model: &Decoder) -> Result<Option<f64>> {
    if *model.head_kind() != HeadKind::LanguageModel || model.max_positions() <= 2 * WRITTEN {
        return Ok(None);
    }
    let prompt = some_tokens(model, WRITTEN);
    let options = GenerateOptions {
        max_new_tokens: WRITTEN,
        end_tokens: EndTokens::Ignore,
        ..GenerateOptions::default()
    };
    let mut best = 0.0f64;
    for _ in 0..2 {
        let mut first = None;
        model.generate(std::slice::from_ref(&prompt), &options, &mut |_, _| {
            first.get_or_insert_with(Instant::now);
        })?;
        // The first token comes with the reading of the prompt.
        let seconds = first.map_or(f64::INFINITY, |first| first.elapsed().as_secs_f64());
        best = best.max((WRITTEN - 1) as f64 / seconds);
    }
    Ok(Some(best))
}

/// Any tokens do: no model is faster at some than at others.
fn some_tokens(model: &Decoder, count: usize) -> Vec<u32> {
    let vocab_size = model.vocab_size();
    (0..count).map(|idx| (idx * 37 % vocab_size) as u32).collect()
}
