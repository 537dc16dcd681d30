//! How much a run over rollouts computes, for an estimate before it.

use anyhow::Result;
use data::Tokenizer;
use decoder::GenerateOptions;
use events::Events;
use methods::recipe::Recipe;

use super::{Method, prompts};

/// What one pass over the prompts takes, if every reply is as long as it may be.
pub struct Extent {
    /// Optimiser steps.
    pub steps: usize,
    /// Tokens that are learnt from or read before them.
    pub tokens: f64,
    /// Tokens of replies among them.
    pub learnt: f64,
    /// Tokens that go through the model forward only: prompts that are read, and what is looked up for reference and critic.
    pub forward_only: f64,
    /// Tokens of replies that are written.
    pub written: f64,
    /// Replies that are written side by side.
    pub at_once: usize,
    /// Tokens of a prompt, in the mean, and of a reply.
    pub prompt: usize,
    /// Tokens of a reply at most.
    pub reply: usize,
    /// Tokens of the longest row.
    pub longest: usize,
}

/// The extent of a recipe whose objective writes its own data; none of another.
pub fn extent(recipe: &Recipe, tokenizer: &Tokenizer, events: &Events) -> Result<Option<Extent>> {
    let Some(method) = Method::of(&recipe.objective) else {
        return Ok(None);
    };
    let sets = prompts::read(&recipe.data.train, recipe, tokenizer, events)?;
    let lengths: Vec<usize> = sets
        .iter()
        .flat_map(|set| &set.prompts)
        .map(|prompt| prompt.tokens.len())
        .collect();
    let reply = method.max_completion_length();
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    let longest = lengths.iter().max().unwrap_or(&0) + reply;
    let per_step = recipe.train.documents_per_step();
    let per_rollout = per_step * method.mini_batches();
    let rollouts = (lengths.len() * method.group() / per_rollout).max(1);
    let steps = rollouts * method.steps_per_rollout();
    let length = mean + reply as f64;
    let looked_up =
        f64::from(u8::from(method.needs_reference())) + f64::from(u8::from(matches!(method, Method::Critic(..))));
    Ok(Some(Extent {
        steps,
        tokens: (steps * per_step) as f64 * length,
        learnt: (steps * per_step * reply) as f64,
        forward_only: (rollouts * per_rollout) as f64 * (mean + length * looked_up),
        written: (rollouts * per_rollout * reply) as f64,
        at_once: per_rollout.min(GenerateOptions::default().max_sequences),
        prompt: mean.round() as usize,
        reply,
        longest: longest.max(recipe.data.max_tokens.min(longest * per_step)),
    }))
}
