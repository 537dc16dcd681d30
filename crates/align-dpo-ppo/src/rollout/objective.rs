//! The policy gradient over packed rows of episodes.
//!
//! PPO: `Σ policy loss + c_v · value loss`; GRPO: `Σ policy loss + β · k3`. Which tokens weigh how much is the row's word.
//!
//! Shapes: t tokens.

use decoder::loss::token_log_probs;
use tch::{Device, Kind, Tensor};
use tensor_core::{Loss, ModelPass, Objective};

use super::episode::{reply_row, spread};
use super::{Episode, ValueHead};
use crate::ReplyRow;
use crate::reinforce::{Clip, KlEstimator, clip_fraction, policy_loss, value_loss};

/// How tokens are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenScale {
    /// Every token of the step alike: PPO, DAPO.
    Token,
    /// Every reply of the step alike: GRPO.
    Reply,
    /// Every token alike, over replies of this many: Dr. GRPO.
    Longest(usize),
}

/// A row of episodes.
#[derive(Debug)]
pub struct PolicyRow {
    replies: ReplyRow,
    old: Tensor,
    advantages: Tensor,
    reference: Option<Tensor>,
    values: Option<(Tensor, Tensor)>,
    scale: Tensor,
    weight: f64,
}

/// The critic's part of the loss.
#[derive(Debug)]
pub struct ValueTerm {
    /// The head that trains.
    pub head: ValueHead,
    /// `c_v`.
    pub coefficient: f64,
    /// How far a value may move from the rollout's.
    pub clip: f64,
}

/// A clipped policy gradient, with a critic or with a penalty in the loss.
#[derive(Debug)]
pub struct PolicyGradient {
    /// How far a token's ratio may go.
    pub clip: Clip,
    /// β of the penalty (k3) in the loss; rows without a reference have none.
    pub beta: f64,
    /// The critic.
    pub critic: Option<ValueTerm>,
}

impl PolicyRow {
    /// Episodes side by side.
    pub fn new(episodes: &[&Episode], scale: TokenScale, device: Device) -> Self {
        let numbers = |of: &dyn Fn(&Episode, usize) -> f64| spread(episodes, device, of);
        let has = |part: fn(&Episode) -> bool| episodes.iter().all(|episode| part(episode));
        let weight = match scale {
            TokenScale::Token => episodes.iter().map(|episode| episode.reply.len()).sum::<usize>(),
            TokenScale::Reply | TokenScale::Longest(_) => episodes.len(),
        };
        Self {
            replies: reply_row(episodes, device),
            old: numbers(&|episode, at| f64::from(episode.log_probs[at])),
            advantages: numbers(&|episode, at| episode.advantages[at]),
            reference: has(|episode| !episode.reference.is_empty())
                .then(|| numbers(&|episode, at| f64::from(episode.reference[at]))),
            values: has(|episode| !episode.values.is_empty()).then(|| {
                let old = numbers(&|episode, at| f64::from(episode.values[at]));
                (old, numbers(&|episode, at| episode.returns[at]))
            }),
            scale: numbers(&|episode, _| match scale {
                TokenScale::Token => 1.0,
                TokenScale::Reply => 1.0 / episode.reply.len() as f64,
                TokenScale::Longest(tokens) => 1.0 / tokens as f64,
            }),
            weight: weight as f64,
        }
    }

    /// Tokens and documents.
    pub fn replies(&self) -> &ReplyRow {
        &self.replies
    }
}

impl Objective for PolicyGradient {
    type Batch = PolicyRow;

    fn weight(&self, row: &PolicyRow) -> f64 {
        row.weight
    }

    /// Replies are drawn without dropout, and a token's ratio is between two states of one and the same policy.
    fn drops_out(&self) -> bool {
        false
    }

    fn loss(&self, policy: &ModelPass, row: &PolicyRow) -> tensor_core::Result<Loss> {
        let ReplyRow {
            tokens,
            targets,
            documents,
            ..
        } = &row.replies;
        let hidden = policy.hidden(tokens, documents);
        let log_probs = token_log_probs(&hidden, policy.head(), targets, &policy.pass(documents));
        let of_tokens = row.replies.of_replies();
        let num_tokens = of_tokens.sum(Kind::Double).double_value(&[]);
        let total = |each: &Tensor| (each.detach() * &of_tokens).sum(Kind::Double).double_value(&[]);
        let mut each = policy_loss(&log_probs, &row.old, &row.advantages, self.clip);
        let mut ratios = vec![
            ("loss/policy_avg", total(&each), num_tokens),
            (
                "policy/clipfrac_avg",
                total(&clip_fraction(&log_probs, &row.old, &row.advantages, self.clip)),
                num_tokens,
            ),
            (
                "policy/approxkl_avg",
                total(&((&log_probs - &row.old).square() * 0.5)),
                num_tokens,
            ),
        ];
        if let Some(reference) = &row.reference {
            let penalty = KlEstimator::K3.of(&log_probs, reference);
            ratios.push(("kl", total(&penalty), num_tokens));
            if self.beta > 0.0 {
                each += penalty * self.beta;
            }
        }
        if let (Some(critic), Some((old, returns))) = (&self.critic, &row.values) {
            let values = critic.head.values(&hidden);
            let loss = value_loss(&values, old, returns, critic.clip);
            ratios.push(("loss/value_avg", total(&loss), num_tokens));
            each += loss * critic.coefficient;
        }
        Ok(Loss {
            ratios,
            ..Loss::of((each * &row.scale).sum(Kind::Float))
        })
    }
}
