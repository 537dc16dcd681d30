//! What is asked of an agent and what it says, and the seam to whatever computes it.

use serde::{Deserialize, Serialize};

use crate::Failure;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: content.into(),
        }
    }
}

/// One call of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Which agent: its name in the configuration.
    pub agent: String,
    /// The conversation to answer.
    pub messages: Vec<Message>,
    /// The most tokens of the answer.
    pub max_tokens: usize,
    /// What logits are divided by; 0 takes the likeliest token.
    pub temperature: f64,
    /// Where the random numbers start.
    pub seed: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its text.
    pub text: String,
    /// Its tokens, as whoever made them counts.
    pub tokens: usize,
    /// How often it was tried.
    pub attempts: usize,
}

/// Whatever answers for some agents: a model in memory, with an adapter for each, or endpoints.
///
/// Why several requests at once: agents of one layer do not wait for each other, so a model answers them as one batch.
pub trait Backend {
    /// An answer or a failure for each request, in order.
    fn respond(&mut self, requests: &[Request]) -> Vec<Result<Reply, Failure>>;

    /// As [`Self::respond`] for one request, handing out text as it comes.
    fn stream(&mut self, request: &Request, on_text: &mut dyn FnMut(&str)) -> Result<Reply, Failure> {
        let reply = self
            .respond(std::slice::from_ref(request))
            .pop()
            .unwrap_or(Err(Failure::Empty))?;
        on_text(&reply.text);
        Ok(reply)
    }

    /// How many tokens a text has for `agent`; a quarter of its bytes where nobody knows better.
    fn count_tokens(&self, agent: &str, text: &str) -> usize {
        let _ = agent;
        text.len().div_ceil(4)
    }
}
