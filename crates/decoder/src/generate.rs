//! Cached, batched generation: prompts are packed documents, decoding is one token a live sequence.
//!
//! Shapes: t tokens of a prefill, n live sequences, v vocabulary. Sequences that end leave the batch and waiting prompts
//! take their place, so nothing is padded and a sequence's tokens do not depend on what else is generated.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::{Kind, Tensor};
use tensor_core::{AdapterRouting, Documents, FrozenCache, Pass, blob, parallel};

use crate::cache::KvCache;
use crate::decoder::Decoder;
use crate::sampler::Sampler;
use crate::{Error, Result};

/// How [`Decoder::generate`] goes about it.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// The most tokens a sequence gets.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampler: Sampler,
    /// Token ids that end a sequence, besides the model's own.
    pub stop_ids: Vec<u32>,
    /// Which of the model's own end tokens count.
    pub end_tokens: EndTokens,
    /// The most sequences that run at once.
    pub max_sequences: usize,
    /// The most prompt tokens that one pass reads; a longer prompt has a pass of its own.
    pub max_prefill_tokens: usize,
    /// The adapters that each prompt is answered with, one mix a prompt; none for the model's default.
    pub mixes: Vec<AdapterRouting>,
    /// Set by another thread or a signal, ends every sequence before its next token.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// Whether the model's own end tokens end a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndTokens {
    /// All of them, from `config.json` and `generation_config.json`.
    Stop,
    /// None: sequences run to their full length, as benchmarks want.
    Ignore,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            sampler: Sampler::default(),
            stop_ids: Vec::new(),
            end_tokens: EndTokens::Stop,
            max_sequences: 32,
            max_prefill_tokens: 4096,
            mixes: Vec::new(),
            interrupt: None,
        }
    }
}

impl GenerateOptions {
    fn is_interrupted(&self) -> bool {
        self.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// With an end token of the model or a stop id of the caller.
    Eos,
    /// With the most tokens asked for.
    Length,
    /// At the model's last position.
    Context,
    /// By [`GenerateOptions::interrupt`].
    Interrupted,
}

/// What was generated after one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens; the one that ended the sequence is the last.
    pub tokens: Vec<u32>,
    /// Each token's log-probability in nats under the model itself, at temperature 1 without penalties or cuts.
    pub log_probs: Vec<f32>,
    /// Why it ended.
    pub stopped: Stop,
}

/// A sequence that is being generated.
struct Live {
    idx: usize,
    tokens: Vec<u32>,
    prompt_length: usize,
    log_probs: Vec<f32>,
}

impl Decoder {
    /// Continues each prompt (token ids) until it ends; `on_token` hears of each token as it comes, with its prompt's
    /// index. Adapters take part.
    ///
    /// Errors: a head that is not for language modelling, an empty prompt or one that leaves no room, an option outside
    /// its range, logits that are not numbers.
    ///
    /// # Panics
    /// If there are mixes, but not one a prompt.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Generated>> {
        self.needs_language_head("generation")?;
        options.sampler.check()?;
        self.check_prompts(prompts)?;
        let mixes = &options.mixes;
        assert!(mixes.is_empty() || mixes.len() == prompts.len(), "one mix a prompt");
        let mut stop_ids = options.stop_ids.clone();
        if options.end_tokens == EndTokens::Stop {
            stop_ids.extend(self.config.eos_token_ids.iter().map(|&id| id as u32));
        }
        let mut done: Vec<Option<Generated>> = prompts.iter().map(|_| None).collect();
        let mut waiting: VecDeque<Live> = prompts.iter().enumerate().map(Live::new).collect();
        let (mut live, mut cache) = (Vec::<Live>::new(), KvCache::default());
        let still = FrozenCache::default();
        if options.max_new_tokens == 0 {
            waiting
                .drain(..)
                .for_each(|sequence| sequence.end(Stop::Length, &mut done));
        }
        while !(live.is_empty() && waiting.is_empty()) {
            if options.is_interrupted() {
                let unfinished = live.drain(..).chain(waiting.drain(..));
                unfinished.for_each(|sequence| sequence.end(Stop::Interrupted, &mut done));
                break;
            }
            let admitted = admit(&mut waiting, live.len(), options);
            let (logits, first) = if admitted.is_empty() {
                (self.next_logits(&live, mixes, (&cache, &still))?, 0)
            } else {
                let (logits, past) = self.prefill(&admitted, mixes, &still)?;
                let first = live.len();
                live.extend(admitted);
                cache.append(past);
                (logits, first)
            };
            let mut ended = vec![None; live.len()];
            draw(&mut live[first..], &logits, &options.sampler);
            for (sequence, ended) in live[first..].iter().zip(&mut ended[first..]) {
                let token = sequence.newest();
                on_token(sequence.idx, token);
                *ended = self.ending(sequence, token, &stop_ids, options.max_new_tokens);
            }
            cache.retain(|idx| ended[idx].is_none());
            for (sequence, ended) in std::mem::take(&mut live).into_iter().zip(ended) {
                match ended {
                    None => live.push(sequence),
                    Some(stop) => sequence.end(stop, &mut done),
                }
            }
        }
        Ok(done.into_iter().flatten().collect())
    }

    fn ending(&self, sequence: &Live, token: u32, stop_ids: &[u32], max_new_tokens: usize) -> Option<Stop> {
        if stop_ids.contains(&token) {
            Some(Stop::Eos)
        } else if sequence.log_probs.len() >= max_new_tokens {
            Some(Stop::Length)
        } else if sequence.tokens.len() >= self.max_positions() {
            Some(Stop::Context)
        } else {
            None
        }
    }

    /// The logits `[n, v]` after each prompt, f32 on the CPU, and the cache that the prompts leave.
    fn prefill(&self, sequences: &[Live], mixes: &[AdapterRouting], still: &FrozenCache) -> Result<(Tensor, KvCache)> {
        let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
        let documents = mixed(Documents::new(&lengths), sequences, mixes);
        let cache = KvCache::new(sequences.len());
        let tokens: Vec<i64> = sequences
            .iter()
            .flat_map(|s| &s.tokens)
            .map(|&id| i64::from(id))
            .collect();
        Ok((self.last_logits(&tokens, &documents, (&cache, still))?, cache))
    }

    /// The logits `[n, v]` after each sequence's newest token, f32 on the CPU; the cache takes the token in.
    fn next_logits(
        &self,
        sequences: &[Live],
        mixes: &[AdapterRouting],
        past: (&KvCache, &FrozenCache),
    ) -> Result<Tensor> {
        let starts: Vec<usize> = sequences.iter().map(|s| s.tokens.len() - 1).collect();
        let documents = Documents::continuing(&vec![1; sequences.len()], &starts);
        let documents = mixed(documents, sequences, mixes);
        let newest = sequences
            .iter()
            .zip(&starts)
            .map(|(s, &start)| i64::from(s.tokens[start]));
        self.last_logits(&newest.collect::<Vec<_>>(), &documents, past)
    }

    fn last_logits(
        &self,
        tokens: &[i64],
        documents: &Documents,
        (cache, still): (&KvCache, &FrozenCache),
    ) -> Result<Tensor> {
        let tokens = Tensor::from_slice(tokens).to_device(self.device);
        let pass = Pass::evaluate(documents).with_past(cache).with_frozen_cache(still);
        let mut hidden = self.hidden(&tokens, &pass);
        if documents.longest() > 1 {
            hidden = hidden.index_select(0, &documents.last_tokens(self.device));
        }
        // The head has no past, and sees one position a sequence.
        let ones = documents.one_token_each();
        let logits = tch::no_grad(|| self.head.forward(&hidden, &Pass::evaluate(&ones)));
        let logits = logits.to_kind(Kind::Float).to_device(tch::Device::Cpu).contiguous();
        if logits.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::NotFinite);
        }
        Ok(logits)
    }

    fn check_prompts(&self, prompts: &[Vec<u32>]) -> Result<()> {
        let context = self.max_positions();
        for (index, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() || prompt.len() >= context {
                return Err(Error::Prompt {
                    index,
                    most: context.saturating_sub(1),
                    context,
                    found: prompt.len(),
                });
            }
            self.check_ids(prompt, || format!("prompt {index}"))?;
        }
        Ok(())
    }
}

/// Draws each sequence's next token from its row of `[n, v]` logits, side by side.
fn draw(sequences: &mut [Live], logits: &Tensor, sampler: &Sampler) {
    let v = logits.size()[1] as usize;
    let rows = &blob::to_vec::<f32>(logits);
    let mut each: Vec<(&mut Live, &[f32])> = sequences.iter_mut().zip(rows.chunks_exact(v)).collect();
    parallel::for_each_chunk(&mut each, 1, |each| {
        for (sequence, logits) in each {
            sequence.extend(logits, sampler);
        }
    });
}

/// The documents of these sequences, each with its prompt's mix.
fn mixed(documents: Documents, sequences: &[Live], mixes: &[AdapterRouting]) -> Documents {
    if mixes.is_empty() {
        return documents;
    }
    let each: Vec<AdapterRouting> = sequences.iter().map(|sequence| mixes[sequence.idx].clone()).collect();
    documents.with_routings(&each)
}

/// Takes waiting sequences into the next prefill, as many as fit.
/// Those that join: none before a quarter of the places is free, since a pass that reads prompts draws for no one else.
fn admit(waiting: &mut VecDeque<Live>, num_live: usize, options: &GenerateOptions) -> Vec<Live> {
    let mut admitted: Vec<Live> = Vec::new();
    let mut tokens = 0;
    if num_live > options.max_sequences * 3 / 4 {
        return admitted;
    }
    while let Some(next) = waiting.front() {
        let full = num_live + admitted.len() >= options.max_sequences.max(1);
        let long = !admitted.is_empty() && tokens + next.tokens.len() > options.max_prefill_tokens;
        if full || long {
            break;
        }
        tokens += next.tokens.len();
        admitted.extend(waiting.pop_front());
    }
    admitted
}

impl Live {
    fn new((idx, prompt): (usize, &Vec<u32>)) -> Self {
        Self {
            idx,
            tokens: prompt.clone(),
            prompt_length: prompt.len(),
            log_probs: Vec::new(),
        }
    }

    fn newest(&self) -> u32 {
        self.tokens[self.tokens.len() - 1]
    }

    /// Draws the next token from `[v]` logits.
    fn extend(&mut self, logits: &[f32], sampler: &Sampler) {
        let token = sampler.choose(logits, &self.tokens, self.idx as u64, self.log_probs.len() as u64);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
        self.log_probs.push(logits[token as usize] - max - sum.ln() as f32);
        self.tokens.push(token);
    }

    fn end(mut self, stopped: Stop, done: &mut [Option<Generated>]) {
        done[self.idx] = Some(Generated {
            tokens: self.tokens.split_off(self.prompt_length),
            log_probs: self.log_probs,
            stopped,
        });
    }
}
