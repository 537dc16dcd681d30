//! From logits to the next token: repetition penalty, temperature, top-k, top-p, min-p, in Transformers' order.
//!
//! Sources: Keskar et al. 2019, arXiv:1909.05858 (penalty); Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al.
//! 2020, arXiv:1904.09751 (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p).
//! Deviation: sums of probabilities are f64.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, random};

/// How the next token is drawn. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampler {
    /// What logits are divided by; 0 takes the likeliest token.
    pub temperature: f64,
    /// How many of the likeliest tokens stay; 0 for all.
    pub top_k: usize,
    /// The smallest set of likeliest tokens with at least this probability stays; 1 for all.
    pub top_p: f64,
    /// Tokens with at least this fraction of the likeliest one's probability stay; 0 for all.
    pub min_p: f64,
    /// What the logits of tokens seen before are divided by (times, where negative); 1 for none.
    pub repetition_penalty: f64,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampler {
    /// An error unless every option lies in its range.
    pub fn check(&self) -> Result<()> {
        let refuse = |option, wanted, found| Err(Error::Sampler { option, wanted, found });
        let Self {
            temperature,
            top_p,
            min_p,
            repetition_penalty,
            ..
        } = *self;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return refuse("temperature", "0 or more", temperature);
        }
        if !(0.0..=1.0).contains(&top_p) {
            return refuse("top_p", "0 to 1", top_p);
        }
        if !(0.0..=1.0).contains(&min_p) {
            return refuse("min_p", "0 to 1", min_p);
        }
        if !(repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            return refuse("repetition_penalty", "more than 0", repetition_penalty);
        }
        Ok(())
    }

    /// The next token of sequence `stream` at its `place`: the same for the same seed, whatever else is generated.
    ///
    /// `logits`: `[v]`; `previous`: the sequence so far, prompt included.
    pub fn choose(&self, logits: &[f32], previous: &[u32], stream: u64, place: u64) -> u32 {
        if self.temperature == 0.0 {
            let mut logits = logits.to_vec();
            self.penalise(&mut logits, previous);
            return likeliest(&logits);
        }
        let candidates = self.candidates(logits, previous);
        let total: f64 = candidates.iter().map(|c| c.weight).sum();
        let mut rest = random::uniform(self.seed, stream, place) * total;
        for candidate in &candidates {
            rest -= candidate.weight;
            if rest < 0.0 {
                return candidate.id;
            }
        }
        // Reached by rounding only.
        candidates.iter().rev().find(|c| c.weight > 0.0).map_or(0, |c| c.id)
    }

    /// The probabilities `[v]` that the next token is drawn from at a temperature above 0.
    pub fn probabilities(&self, logits: &[f32], previous: &[u32]) -> Vec<f64> {
        let candidates = self.candidates(logits, previous);
        let total: f64 = candidates.iter().map(|c| c.weight).sum();
        let mut probabilities = vec![0.0; logits.len()];
        for candidate in candidates {
            probabilities[candidate.id as usize] = candidate.weight / total;
        }
        probabilities
    }

    fn candidates(&self, logits: &[f32], previous: &[u32]) -> Vec<Candidate> {
        let mut logits = logits.to_vec();
        self.penalise(&mut logits, previous);
        let floor = self.lowest_of_top_k(&logits);
        let temperature = self.temperature as f32;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) / temperature;
        let mut candidates: Vec<Candidate> = logits
            .iter()
            .zip(0u32..)
            .filter(|(logit, _)| **logit >= floor)
            .map(|(logit, id)| Candidate {
                id,
                weight: f64::from(logit / temperature - max).exp(),
            })
            .collect();
        if self.top_p < 1.0 {
            candidates = most_of(candidates, self.top_p);
        }
        if self.min_p > 0.0 {
            // The likeliest weight is exactly 1.
            candidates.retain(|c| c.weight >= self.min_p);
        }
        candidates
    }

    fn penalise(&self, logits: &mut [f32], previous: &[u32]) {
        let penalty = self.repetition_penalty as f32;
        let mut seen: Vec<u32> = previous.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit < 0.0 {
                    *logit * penalty
                } else {
                    *logit / penalty
                };
            }
        }
    }

    /// The k-th highest logit; equal ones stay together.
    fn lowest_of_top_k(&self, logits: &[f32]) -> f32 {
        if self.top_k == 0 || self.top_k >= logits.len() {
            return f32::NEG_INFINITY;
        }
        let mut order = logits.to_vec();
        *order.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a)).1
    }
}

struct Candidate {
    id: u32,
    /// `exp(logit - max)`, not yet divided by the sum.
    weight: f64,
}

/// The likeliest candidates without the unlikely ones that together have at most `1 - top_p`; in the order of their ids.
fn most_of(candidates: Vec<Candidate>, top_p: f64) -> Vec<Candidate> {
    let total: f64 = candidates.iter().map(|c| c.weight).sum();
    let spare = (1.0 - top_p) * total;
    // Those below their even share of what is dropped are dropped whatever their order, so that few are sorted.
    let share = spare / candidates.len() as f64;
    let (mut kept, small): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| c.weight >= share.min(1.0));
    let mut dropped: f64 = small.iter().map(|c| c.weight).sum();
    kept.sort_by(|a, b| a.weight.total_cmp(&b.weight));
    let first = kept
        .iter()
        .position(|c| {
            dropped += c.weight;
            dropped > spare
        })
        .unwrap_or(kept.len())
        .min(kept.len() - 1);
    let mut kept = kept.split_off(first);
    kept.sort_unstable_by_key(|c| c.id);
    kept
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}
