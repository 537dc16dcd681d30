//! How likely the model finds a text.
//!
//! Shapes: t tokens.

use tch::Tensor;
use tensor_core::{Documents, Pass, blob};

use crate::decoder::Decoder;
use crate::loss::{self, IGNORED};
use crate::{Error, Result};

impl Decoder {
    /// The log-probability in nats of each token (`[t]` ids) given its document so far; 0 for each document's first.
    ///
    /// The sum over a document, divided by its tokens less one, is minus the logarithm of its perplexity.
    ///
    /// # Panics
    /// If `documents` are not over `tokens.len()` tokens.
    pub fn token_log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>> {
        self.log_probs_of(tokens, &Pass::evaluate(documents))
    }

    /// As [`Self::token_log_probs`], of the base beneath the adapters.
    pub fn base_log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>> {
        self.log_probs_of(tokens, &Pass::evaluate(documents).without_adapters())
    }

    fn log_probs_of(&self, tokens: &[u32], pass: &Pass) -> Result<Vec<f32>> {
        let documents = pass.documents();
        self.needs_language_head("scoring")?;
        self.check_ids(tokens, || "the row".to_owned())?;
        assert_eq!(tokens.len(), documents.num_tokens(), "one token a position");
        let ids: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
        let mut targets = vec![IGNORED; ids.len()];
        for range in documents.ranges() {
            targets[range.start..range.end - 1].copy_from_slice(&ids[range.start + 1..range.end]);
        }
        let on_device = |ids: &[i64]| Tensor::from_slice(ids).to_device(self.device);
        let hidden = self.hidden(&on_device(&ids), pass);
        let each = tch::no_grad(|| loss::token_log_probs(&hidden, &self.head, &on_device(&targets), pass));
        let each = each.to_device(tch::Device::Cpu).contiguous();
        // The position before a token predicts it.
        let each = blob::to_vec::<f32>(&each);
        let mut shifted = vec![0.0; each.len()];
        for range in documents.ranges() {
            shifted[range.start + 1..range.end].copy_from_slice(&each[range.start..range.end - 1]);
        }
        Ok(shifted)
    }

    /// An error if an id has no row in the embedding; `place` says where the ids stand.
    pub(crate) fn check_ids(&self, ids: &[u32], place: impl Fn() -> String) -> Result<()> {
        let vocab_size = self.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(&found) => Err(Error::Token {
                place: place(),
                vocab_size,
                found,
            }),
        }
    }
}
