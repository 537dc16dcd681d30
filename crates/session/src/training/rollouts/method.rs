//! What PPO and GRPO do differently: how many replies a prompt gets, who says what was expected, how tokens weigh.

use align_dpo_ppo::reinforce::{Clip, has_no_spread};
use align_dpo_ppo::reward::{RewardFunction, Rewards};
use align_dpo_ppo::rollout::{
    Episode, GroupLoss, GrpoConfig, MovingReference, PolicyGradient, PpoConfig, TokenScale, ValueHead, ValueInit,
    ValueTerm, teach_by_critic, teach_by_group,
};
use anyhow::Result;
use decoder::Decoder;
use methods::recipe::ObjectiveConfig;

/// PPO with a critic, or GRPO with groups.
pub(super) enum Method<'a> {
    /// PPO; the head is there from [`Method::begin_critic`] on.
    Critic(&'a PpoConfig, Option<ValueHead>),
    /// GRPO and its kin.
    Groups(&'a GrpoConfig),
}

impl<'a> Method<'a> {
    /// That of an objective; none of one that does not write its own data.
    pub(super) fn of(objective: &'a ObjectiveConfig) -> Option<Self> {
        match objective {
            ObjectiveConfig::Ppo(config) => Some(Self::Critic(config, None)),
            ObjectiveConfig::Grpo(config) => Some(Self::Groups(config)),
            _ => None,
        }
    }

    pub(super) fn rewards(&self) -> &'a [RewardFunction] {
        match self {
            Self::Critic(config, _) => &config.rewards,
            Self::Groups(config) => &config.rewards,
        }
    }

    /// Makes the critic's head, if there is a critic.
    pub(super) fn begin_critic(&mut self, rewards: &Rewards, model: &Decoder) -> Result<()> {
        let Self::Critic(config, head) = self else {
            return Ok(());
        };
        let width = model.config().hidden_size;
        *head = Some(match (config.value_init, rewards.direction()) {
            (ValueInit::RewardModel, Some(direction)) if direction.numel() as i64 == width => {
                ValueHead::from_direction(direction, model.device())
            }
            (ValueInit::RewardModel, found) => anyhow::bail!(
                "`objective.value_init`: wanted a reward model as wide as the policy ({width}), found {}\n\
                 hint: leave it out, and every value begins at 0",
                found.map_or("none".to_owned(), |direction| format!("one of {}", direction.numel()))
            ),
            (ValueInit::Zero, _) => ValueHead::zeros(width, model.device()),
        });
        Ok(())
    }

    pub(super) fn critic(&self) -> Option<&ValueHead> {
        match self {
            Self::Critic(_, head) => head.as_ref(),
            Self::Groups(_) => None,
        }
    }

    /// Whether anything is compared with a reference.
    pub(super) fn needs_reference(&self) -> bool {
        match self {
            Self::Critic(..) => true,
            Self::Groups(config) => config.beta > 0.0,
        }
    }

    pub(super) fn moving(&self) -> Option<MovingReference> {
        match self {
            Self::Critic(config, _) => config.sync_ref_model,
            Self::Groups(config) => config.sync_ref_model,
        }
    }

    /// Replies to one prompt.
    pub(super) fn group(&self) -> usize {
        match self {
            Self::Critic(..) => 1,
            Self::Groups(config) => config.num_generations,
        }
    }

    pub(super) fn max_completion_length(&self) -> usize {
        match self {
            Self::Critic(config, _) => config.max_completion_length,
            Self::Groups(config) => config.max_completion_length,
        }
    }

    /// Optimiser steps of a pass over a rollout.
    pub(super) fn mini_batches(&self) -> usize {
        match self {
            Self::Critic(config, _) => config.num_mini_batches,
            Self::Groups(config) => config.steps_per_generation,
        }
    }

    /// Optimiser steps of a rollout.
    pub(super) fn steps_per_rollout(&self) -> usize {
        self.mini_batches()
            * match self {
                Self::Critic(config, _) => config.num_ppo_epochs,
                Self::Groups(config) => config.num_iterations,
            }
    }

    pub(super) fn scale(&self) -> TokenScale {
        match self {
            Self::Critic(..) => TokenScale::Token,
            Self::Groups(config) => match config.loss_type {
                GroupLoss::Dapo => TokenScale::Token,
                GroupLoss::Grpo => TokenScale::Reply,
                GroupLoss::DrGrpo => TokenScale::Longest(config.max_completion_length),
            },
        }
    }

    pub(super) fn objective(&self) -> PolicyGradient {
        match self {
            Self::Critic(config, head) => PolicyGradient {
                clip: Clip::even(config.cliprange),
                beta: 0.0,
                critic: head.as_ref().map(|head| ValueTerm {
                    head: head.share(),
                    coefficient: config.vf_coef,
                    clip: config.cliprange_value,
                }),
            },
            Self::Groups(config) => PolicyGradient {
                clip: Clip {
                    low: config.epsilon,
                    high: config.epsilon_high.unwrap_or(config.epsilon),
                },
                beta: config.beta,
                critic: None,
            },
        }
    }

    /// What a nat costs in the first rollout.
    pub(super) fn first_price(&self) -> f64 {
        match self {
            Self::Critic(config, _) => config.kl_coef,
            Self::Groups(config) => config.beta,
        }
    }

    /// What a nat costs after a rollout of `num_replies` replies that lay `kl` nats away in the mean.
    pub(super) fn next_price(&self, price: f64, kl: f64, num_replies: usize) -> f64 {
        match self {
            Self::Critic(config, _) => config
                .adaptive_kl
                .map_or(price, |adaptive| adaptive.next(price, kl, num_replies)),
            Self::Groups(_) => price,
        }
    }

    /// What a reply earns besides its score, in the mean: the price of its nats, where that is part of the reward.
    pub(super) fn non_score_reward(&self, episodes: &[Episode], price: f64) -> Option<f64> {
        let Self::Critic(config, _) = self else { return None };
        let nats: f64 = episodes.iter().map(|episode| episode.nats(config.kl_estimator)).sum();
        Some(-price * nats / episodes.len() as f64)
    }

    /// How many groups of a rollout have one reward for all of their replies, of how many; PPO's whole rollout is one.
    pub(super) fn without_spread(&self, episodes: &[Episode]) -> (usize, usize) {
        let size = match self {
            Self::Critic(..) => episodes.len().max(1),
            Self::Groups(config) => config.num_generations,
        };
        let scores = |group: &[Episode]| has_no_spread(group.iter().filter_map(|episode| episode.score));
        let groups = episodes.chunks(size);
        (groups.clone().filter(|group| scores(group)).count(), groups.count())
    }

    /// Turns the scores of a rollout into advantages.
    pub(super) fn teach(&self, episodes: &mut [Episode], price: f64) {
        match self {
            Self::Critic(config, _) => teach_by_critic(episodes, price, config),
            Self::Groups(config) => teach_by_group(episodes, config),
        }
    }
}
