//! What evaluation asks of a model.
//!
//! Shapes: t tokens of a packed row, n documents.

use decoder::{Decoder, GenerateOptions};
use serde_json::Value;
use tch::{Kind, Tensor};
use tensor_core::{Documents, LanguageModel, Mix, Pass, blob};

use crate::Result;

/// A model that scores packed rows and answers prompts.
pub trait Scorer {
    /// `[t]` the log-probability in nats of each token given its document so far; 0 for each document's first.
    fn log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>>;

    /// `[n][candidates]` the log-probability in nats of each candidate as the token after each document.
    fn next_log_probs(&self, tokens: &[u32], documents: &Documents, candidates: &[u32]) -> Result<Vec<Vec<f32>>>;

    /// The greedy continuation of each prompt, without the token that ends it; with each prompt's mix, if there are any.
    fn answer(&self, prompts: &[Vec<u32>], mixes: &[Mix], max_new_tokens: usize) -> Result<Vec<Vec<u32>>>;

    /// The adapters that a row's own `adapter` names (none: the row names none); none where rows have no choice.
    ///
    /// Errors: what was found instead of a choice.
    fn mix(&self, chosen: Option<&Value>) -> Result<Option<Mix>, String> {
        let _ = chosen;
        Ok(None)
    }
}

impl Scorer for Decoder {
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
        Ok(blob::slice::<f32>(&chosen)
            .chunks_exact(candidates.len())
            .map(<[f32]>::to_vec)
            .collect())
    }

    fn answer(&self, prompts: &[Vec<u32>], mixes: &[Mix], max_new_tokens: usize) -> Result<Vec<Vec<u32>>> {
        let options = GenerateOptions {
            max_new_tokens,
            mixes: mixes.to_vec(),
            ..GenerateOptions::default()
        };
        let answers = self.generate(prompts, &options, &mut |_, _| ())?;
        let ended = |answer: &decoder::Generated| usize::from(answer.stopped == decoder::Stop::Eos);
        Ok(answers
            .into_iter()
            .map(|answer| answer.tokens[..answer.tokens.len() - ended(&answer)].to_vec())
            .collect())
    }
}
