//! What a loss over pairs is a function of.
//!
//! Shapes: n pairs.

use tch::{Kind, Tensor};

/// One reply of each pair.
#[derive(Debug)]
pub struct Side {
    /// `[n]`: log π(y | x), summed over the reply's tokens, in nats.
    pub log_prob: Tensor,
    /// `[n]`: the same under the reference, without a graph. None: every reply is as likely as any other.
    pub reference: Option<Tensor>,
    /// `[n]`, dtype of `log_prob`: tokens of the reply.
    pub num_tokens: Tensor,
}

/// Pairs of replies to one prompt each.
#[derive(Debug)]
pub struct Pairs {
    /// The better replies.
    pub chosen: Side,
    /// The worse replies.
    pub rejected: Side,
    /// `[n]`: the mean negative log-likelihood of what `sft` and `orpo` learn of the better documents, in nats.
    pub chosen_nll: Tensor,
}

impl Side {
    /// Replies without a reference.
    pub fn new(log_prob: Tensor, num_tokens: Tensor) -> Self {
        Self {
            log_prob,
            reference: None,
            num_tokens,
        }
    }

    /// The same replies with their log-probabilities under a reference.
    #[must_use]
    pub fn with_reference(self, reference: &Tensor) -> Self {
        Self {
            reference: Some(reference.detach()),
            ..self
        }
    }

    /// `[n]`: log `π/π_ref`, or log π without a reference.
    pub fn log_ratio(&self) -> Tensor {
        match &self.reference {
            Some(reference) => &self.log_prob - reference,
            None => self.log_prob.shallow_clone(),
        }
    }

    /// `[n]`: the log-probability of a token, in the mean.
    pub fn mean_log_prob(&self) -> Tensor {
        &self.log_prob / self.num_tokens.clamp_min(1.0)
    }

    /// `[n]`: [`Self::log_ratio`] a token.
    pub(crate) fn mean_log_ratio(&self) -> Tensor {
        self.log_ratio() / self.num_tokens.clamp_min(1.0)
    }
}

impl Pairs {
    /// Pairs of which `sft` and `orpo` learn the better reply.
    pub fn new(chosen: Side, rejected: Side) -> Self {
        let chosen_nll = -chosen.mean_log_prob();
        Self {
            chosen,
            rejected,
            chosen_nll,
        }
    }

    /// The same pairs, where `sft` and `orpo` learn something else of the better document: its mean negative
    /// log-likelihood `[n]`.
    #[must_use]
    pub fn with_chosen_nll(self, chosen_nll: Tensor) -> Self {
        Self { chosen_nll, ..self }
    }

    /// n.
    pub fn len(&self) -> usize {
        self.chosen.log_prob.numel()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `[n]`: by how much more the policy prefers the better reply than the reference does: h.
    pub fn margin(&self) -> Tensor {
        self.chosen.log_ratio() - self.rejected.log_ratio()
    }

    /// TRL's metrics of [`super::LossType::rewards`], as sums over the pairs.
    pub fn reward_sums(rewards: (&Tensor, &Tensor)) -> [(&'static str, f64); 4] {
        let sum = |x: &Tensor| x.sum(Kind::Double).double_value(&[]);
        let (chosen, rejected) = rewards;
        [
            ("rewards/chosen", sum(chosen)),
            ("rewards/rejected", sum(rejected)),
            ("rewards/accuracies", sum(&chosen.gt_tensor(rejected))),
            ("rewards/margins", sum(&(chosen - rejected))),
        ]
    }
}
