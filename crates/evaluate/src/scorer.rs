//! What evaluation asks of a model.
//!
//! Shapes: t tokens of a packed row, n documents.

use std::collections::BTreeMap;

use data::PromptForm;
use decoder::{Decoder, GenerateOptions, Sampler};
use serde_json::{Map, Value};
use tch::{Kind, Tensor};
use tensor_core::{AdapterRouting, Documents, LanguageModel, Pass, blob};

use crate::{Result, Task};

/// A model that scores packed rows and answers prompts.
pub trait Scorer {
    /// `[t]` the log-probability in nats of each token given its document so far; 0 for each document's first.
    fn log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>>;

    /// `[n][candidates]` the log-probability in nats of each candidate as the token after each document.
    fn next_log_probs(&self, tokens: &[u32], documents: &Documents, candidates: &[u32]) -> Result<Vec<Vec<f32>>>;

    /// The continuation of each prompt; with each prompt's mix, if there are any.
    fn answer(&self, prompts: &[Vec<u32>], mixes: &[AdapterRouting], drawing: &Drawing) -> Result<Vec<Answer>>;

    /// The adapters that a row's own `adapter` names (none: the row names none); none where rows have no choice.
    ///
    /// Errors: what was found instead of a choice.
    fn mix(&self, chosen: Option<&Value>) -> Result<Option<AdapterRouting>, String> {
        let _ = chosen;
        Ok(None)
    }

    /// How prompts that are plain texts are given to it; by default as the rows' shape has them.
    fn prompt_form(&self) -> Option<PromptForm> {
        None
    }

    /// The most positions that a row may have; no limit by default.
    fn max_positions(&self) -> Option<usize> {
        None
    }

    /// Who judges replies; nobody by default.
    fn judge(&self) -> Option<&dyn Judge> {
        None
    }
}

/// What is asked about replies besides how likely they are.
pub trait Judge {
    /// As [`Scorer::log_probs`] of the base beneath the model's adapters; none without adapters.
    fn base_log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Option<Vec<f32>>>;

    /// What the task's rewards make of each reply.
    ///
    /// Errors: rewards that are none.
    fn verdicts(&self, task: &Task, replies: &[Said]) -> Result<Vec<Verdict>>;
}

/// How answers are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawing {
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Which numbers it is drawn with.
    pub seed: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its tokens, without the one that ends it.
    pub tokens: Vec<u32>,
    /// Whether it ended by itself.
    pub ended: bool,
}

/// A reply with what it answers.
#[derive(Clone, Debug)]
pub struct Said {
    /// The prompt, as text.
    pub prompt: String,
    /// The reply, as text.
    pub reply: String,
    /// Prompt and reply as the model reads them.
    pub tokens: Vec<u32>,
    /// How many of the tokens are the reply's.
    pub num_tokens: usize,
    /// The row's other columns.
    pub extra: Map<String, Value>,
}

/// What rewards make of a reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// By name; those that could not be told are left out.
    pub parts: BTreeMap<String, f64>,
    /// Their weighted sum; none if a part of it could not be told.
    pub score: Option<f64>,
}

impl Scorer for Decoder {
    fn max_positions(&self) -> Option<usize> {
        Some(Decoder::max_positions(self))
    }

    fn log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>> {
        Ok(self.token_log_probs(tokens, documents)?)
    }

    fn next_log_probs(&self, tokens: &[u32], documents: &Documents, candidates: &[u32]) -> Result<Vec<Vec<f32>>> {
        let ids: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
        let columns: Vec<i64> = candidates.iter().map(|&id| i64::from(id)).collect();
        let chosen = tch::no_grad(|| {
            let hidden = self.hidden(
                &Tensor::from_slice(&ids).to_device(self.device()),
                &Pass::evaluate(documents),
            );
            let last = hidden.index_select(0, &documents.last_tokens(self.device()));
            let ones = documents.one_token_each();
            let logits = self.head().forward(&last, &Pass::evaluate(&ones)).to_kind(Kind::Float);
            let columns = Tensor::from_slice(&columns).to_device(self.device());
            logits
                .log_softmax(-1, Kind::Float)
                .index_select(1, &columns)
                .to_device(tch::Device::Cpu)
                .contiguous()
        });
        Ok(blob::to_vec::<f32>(&chosen)
            .chunks_exact(candidates.len())
            .map(<[f32]>::to_vec)
            .collect())
    }

    fn answer(&self, prompts: &[Vec<u32>], mixes: &[AdapterRouting], drawing: &Drawing) -> Result<Vec<Answer>> {
        let options = GenerateOptions {
            max_new_tokens: drawing.max_new_tokens,
            mixes: mixes.to_vec(),
            sampler: Sampler {
                temperature: drawing.temperature,
                seed: drawing.seed,
                ..Sampler::default()
            },
            ..GenerateOptions::default()
        };
        let answers = self.generate(prompts, &options, &mut |_, _| ())?;
        let answer = |mut answer: decoder::Generated| {
            let ended = answer.stopped == decoder::Stop::Eos;
            answer.tokens.truncate(answer.tokens.len() - usize::from(ended));
            Answer {
                tokens: answer.tokens,
                ended,
            }
        };
        Ok(answers.into_iter().map(answer).collect())
    }
}
