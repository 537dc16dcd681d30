//! A loaded model as evaluation asks it: its decoder, with rows that choose their adapters by name.

use evaluate::{Result, Scorer};
use serde_json::Value;
use tensor_core::{Documents, Mix};

use crate::adapters;
use crate::model::Loaded;

impl Scorer for Loaded {
    fn log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>> {
        self.model.log_probs(tokens, documents)
    }

    fn next_log_probs(&self, tokens: &[u32], documents: &Documents, candidates: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.model.next_log_probs(tokens, documents, candidates)
    }

    fn answer(&self, prompts: &[Vec<u32>], mixes: &[Mix], max_new_tokens: usize) -> Result<Vec<Vec<u32>>> {
        self.model.answer(prompts, mixes, max_new_tokens)
    }

    fn mix(&self, chosen: Option<&Value>) -> Result<Option<Mix>, String> {
        let Some(names) = &self.adapters else { return Ok(None) };
        adapters::mix(names, chosen)
            .map(Some)
            .map_err(|error| format!("{error:#}"))
    }
}
