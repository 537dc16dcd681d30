//! Replies with all that is known of them when the policy is taught.
//!
//! Shapes: t tokens of a packed row, m tokens of a reply.

use decoder::{Decoder, GenerateOptions, Generated, Sampler, Stop};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, ModelPass, blob};

use super::ValueHead;
use crate::reinforce::KlEstimator;
use crate::{Error, Reference, ReplyRow, Result};

/// One reply. Everything `[m]` belongs to its tokens, in their order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Tokens of the reply, its end token included.
    pub reply: Vec<u32>,
    /// Whether it ended by itself.
    pub ended: bool,
    /// `[m]`: log π of each token when it was drawn.
    pub log_probs: Vec<f32>,
    /// `[m]`: log `π_ref` of each token; empty without a reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reference: Vec<f32>,
    /// `[m]`: what the critic expected before each token; empty without a critic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<f32>,
    /// What the reply earned; none if it could not be scored.
    pub score: Option<f64>,
    /// `[m]`: by how much each token was better than expected.
    pub advantages: Vec<f64>,
    /// `[m]`: what each value should have been; empty without a critic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returns: Vec<f64>,
}

impl Episode {
    /// Nats between policy and reference over the reply: `Σ log π - log π_ref`.
    pub fn drift(&self) -> f64 {
        self.nats(KlEstimator::K1)
    }

    /// The reply's nats by an estimator: the sum over its tokens.
    pub fn nats(&self, estimator: KlEstimator) -> f64 {
        let pairs = self.log_probs.iter().zip(&self.reference);
        pairs
            .map(|(&policy, &reference)| estimator.of_token(f64::from(policy), f64::from(reference)))
            .sum()
    }

    /// Tokens of prompt and reply.
    #[expect(clippy::len_without_is_empty, reason = "a prompt has a token")]
    pub fn len(&self) -> usize {
        self.prompt.len() + self.reply.len()
    }
}

/// Lets the policy reply to each prompt at temperature 1; `seed` says how.
///
/// Log-probabilities are those of the sampling pass. Errors: what [`Decoder::generate`] refuses.
pub fn write(
    model: &Decoder,
    prompts: &[Vec<u32>],
    max_completion_length: usize,
    seed: u64,
    on_token: &mut dyn FnMut(usize, u32),
) -> Result<Vec<Episode>> {
    let options = GenerateOptions {
        max_new_tokens: max_completion_length,
        sampler: Sampler {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            seed,
            ..Sampler::default()
        },
        ..GenerateOptions::default()
    };
    let replies = model.generate(prompts, &options, on_token).map_err(Error::Rollout)?;
    let episode = |(prompt, reply): (&Vec<u32>, Generated)| Episode {
        prompt: prompt.clone(),
        reply: reply.tokens,
        ended: reply.stopped == Stop::Eos,
        log_probs: reply.log_probs,
        ..Episode::default()
    };
    Ok(prompts.iter().zip(replies).map(episode).collect())
}

/// Asks the reference and the critic about every token, in rows of at most `max_tokens`.
pub fn look_up(
    policy: &ModelPass,
    episodes: &mut [Episode],
    reference: Option<&Reference>,
    critic: Option<&ValueHead>,
    (max_tokens, device): (usize, Device),
) -> tensor_core::Result<()> {
    let mut from = 0;
    while from < episodes.len() {
        let mut to = from + 1;
        let mut tokens = episodes[from].len();
        while to < episodes.len() && tokens + episodes[to].len() <= max_tokens {
            tokens += episodes[to].len();
            to += 1;
        }
        let part = &mut episodes[from..to];
        let row = reply_row(&part.iter().collect::<Vec<_>>(), device);
        if let Some(reference) = reference {
            let log_probs = on_cpu(&reference.token_log_probs(policy, &row)?);
            gather(part, &blob::to_vec(&log_probs), |episode, numbers| {
                episode.reference = numbers;
            });
        }
        if let Some(critic) = critic {
            let hidden = policy.measured_hidden(&row.tokens, &row.documents);
            let values = on_cpu(&tch::no_grad(|| critic.values(&hidden)));
            gather(part, &blob::to_vec(&values), |episode, numbers| {
                episode.values = numbers;
            });
        }
        from = to;
    }
    Ok(())
}

/// Prompts with their replies as one packed row.
pub(super) fn reply_row(episodes: &[&Episode], device: Device) -> ReplyRow {
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for episode in episodes {
        let whole = episode.prompt.iter().chain(&episode.reply);
        tokens.extend(whole.map(|&id| i64::from(id)));
        targets.extend(std::iter::repeat_n(decoder::loss::IGNORED, episode.prompt.len() - 1));
        targets.extend(episode.reply.iter().map(|&id| i64::from(id)));
        targets.push(decoder::loss::IGNORED);
    }
    let lengths: Vec<usize> = episodes.iter().map(|episode| episode.len()).collect();
    ReplyRow {
        tokens: Tensor::from_slice(&tokens).to_device(device),
        targets: Tensor::from_slice(&targets).to_device(device),
        documents: Documents::new(&lengths),
        reference: None,
    }
}

/// `[t]` f32 of a row of episodes: their numbers where their tokens are predicted, 0 elsewhere.
pub(super) fn spread(episodes: &[&Episode], device: Device, of: impl Fn(&Episode, usize) -> f64) -> Tensor {
    let mut numbers = Vec::new();
    for episode in episodes {
        numbers.extend(std::iter::repeat_n(0.0, episode.prompt.len() - 1));
        numbers.extend((0..episode.reply.len()).map(|at| of(episode, at) as f32));
        numbers.push(0.0);
    }
    Tensor::from_slice(&numbers).to_device(device)
}

fn gather(episodes: &mut [Episode], numbers: &[f32], mut put: impl FnMut(&mut Episode, Vec<f32>)) {
    let mut at = 0;
    for episode in episodes {
        let from = at + episode.prompt.len() - 1;
        put(episode, numbers[from..from + episode.reply.len()].to_vec());
        at += episode.len();
    }
}

fn on_cpu(tensor: &Tensor) -> Tensor {
    tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous()
}
