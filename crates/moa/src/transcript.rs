//! What was said: one call after the other, as lines of JSON.

use serde::Serialize;

use crate::{Failure, Message, Reply, Request};

/// One call of an agent, as it is written into a transcript.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Call {
    /// The layer, from 0; the aggregator's is the last.
    pub layer: usize,
    /// The agent's name.
    pub agent: String,
    /// What it read.
    pub messages: Vec<Message>,
    /// Which of the references that it read were cut to fit, by their number from 1.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cut_references: Vec<usize>,
    /// What logits were divided by.
    pub temperature: f64,
    /// Where its random numbers started.
    pub seed: u64,
    /// What it said; none if it failed.
    pub text: Option<String>,
    /// Tokens of its answer.
    pub tokens: usize,
    /// How often it was tried.
    pub attempts: usize,
    /// Seconds until its layer's answers of the same kind were there.
    pub seconds: f64,
    /// Why it was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Of a ranker: which answer it chose, by its number from 1; 0 if it named none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<usize>,
}

impl Call {
    /// Of a request that has not been answered.
    pub(crate) fn of(layer: usize, request: &Request, cut: &[bool]) -> Self {
        Self {
            layer,
            agent: request.agent.clone(),
            messages: request.messages.clone(),
            cut_references: (1..=cut.len()).filter(|number| cut[number - 1]).collect(),
            temperature: request.temperature,
            seed: request.seed,
            text: None,
            tokens: 0,
            attempts: 0,
            seconds: 0.0,
            failure: None,
            choice: None,
        }
    }

    pub(crate) fn ended(self, answer: &Result<Reply, Failure>, seconds: f64) -> Self {
        match answer {
            Ok(reply) => Self {
                text: Some(reply.text.clone()),
                tokens: reply.tokens,
                attempts: reply.attempts,
                seconds,
                ..self
            },
            Err(failure) => Self {
                failure: Some(failure.to_string()),
                seconds,
                ..self
            },
        }
    }

    pub(crate) fn choosing(self, choice: Option<usize>) -> Self {
        Self {
            choice: Some(choice.map_or(0, |choice| choice + 1)),
            ..self
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The answer.
    pub text: String,
    /// Every call, in order.
    pub calls: Vec<Call>,
}

impl Outcome {
    /// The calls that were left out.
    pub fn failures(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.failure.is_some())
    }

    /// Tokens that all agents wrote.
    pub fn tokens(&self) -> usize {
        self.calls.iter().map(|call| call.tokens).sum()
    }
}
