//! Learning from preferences and from rewards: the DPO family, reward models, PPO and GRPO.
//!
//! [`preference`] holds the losses over pairs and over single replies as functions of log-probabilities alone, under the
//! names of TRL; [`reinforce`] what a policy gradient is made of: advantages, clipping, penalties. [`Preference`] and
//! [`SingleReplies`] are the objectives over packed rows, with a [`Reference`] that is the policy's own base wherever it
//! can be. The logits of all tokens never exist.
//!
//! ```
//! use align_dpo_ppo::preference::{LossType, Pairs, Side, Strength};
//! use tch::Tensor;
//!
//! let side = |log_prob: f32, reference: f32, num_tokens: f32| {
//!     let one = |number: f32| Tensor::from_slice(&[number]);
//!     Side::new(one(log_prob), one(num_tokens)).with_reference(&one(reference))
//! };
//! let pairs = Pairs::new(side(-12.0, -13.0, 10.0), side(-15.0, -14.5, 12.0));
//! let loss = |loss: LossType| loss.of_pairs(&pairs, &Strength::default()).double_value(&[0]);
//! // -log σ(0.1 · 1.5): the chosen reply gained 1 nat, the rejected one lost a half.
//! assert!((loss(LossType::Sigmoid) - 0.620957).abs() < 1e-6);
//! assert!((loss(LossType::Hinge) - 0.85).abs() < 1e-6);
//! assert!((loss(LossType::IpoSum) - 12.25).abs() < 1e-5);
//! ```

mod error;

pub mod preference;
pub mod reinforce;
pub mod reward;
pub mod rollout;

mod moving;
mod pair_objective;
mod reference;
mod reward_objective;
mod row;
mod single_objective;

pub use error::{Error, Result};
pub use pair_objective::{Likelihood, Preference};
pub use reference::{Fingerprint, Reference, open_log_probs, save_log_probs};
pub use reward_objective::{RewardConfig, RewardLoss, ScoredRow};
pub use row::ReplyRow;
pub use single_objective::{KtoConfig, KtoLoss, Mismatched, SingleReplies, SingleRow};

// In the signatures here.
pub use tch;
pub use tensor_core;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
