//! Options of PPO and of GRPO with its kin, by TRL's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reinforce::{AdaptiveKl, GroupScale, KlEstimator};
use crate::reward::RewardFunction;
use crate::{Error, Result};

/// A reference that follows the policy, by TRL's names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MovingReference {
    /// How far the reference moves towards the policy at a time: α, from 0 to 1.
    pub ref_model_mixup_alpha: f64,
    /// Optimiser steps between two such moves.
    pub ref_model_sync_steps: usize,
}

impl Default for MovingReference {
    fn default() -> Self {
        Self {
            ref_model_mixup_alpha: 0.6,
            ref_model_sync_steps: 512,
        }
    }
}

/// What the critic begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueInit {
    /// Every value is 0.
    #[default]
    Zero,
    /// The head of the first reward model among the rewards.
    RewardModel,
}

/// Options of PPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PpoConfig {
    /// What replies earn; the weighted sum is learnt.
    pub rewards: Vec<RewardFunction>,
    /// The most tokens of a reply that the policy writes.
    pub max_completion_length: usize,
    /// How often each rollout is learnt from.
    pub num_ppo_epochs: usize,
    /// Optimiser steps of a pass: a rollout has as many replies as that many steps take.
    pub num_mini_batches: usize,
    /// What each nat away from the reference costs, token by token: β.
    pub kl_coef: f64,
    /// How the distance from the reference is estimated from sampled tokens.
    pub kl_estimator: KlEstimator,
    /// Adapts β so that the mean distance of a reply stays at a target of nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_kl: Option<AdaptiveKl>,
    /// How far the policy's probability of a token may move from the rollout's before its gradient stops: ε, as a
    /// share.
    pub cliprange: f64,
    /// How far the critic's value may move from the rollout's before its gradient stops.
    pub cliprange_value: f64,
    /// What the critic's loss counts beside the policy's.
    pub vf_coef: f64,
    /// What a reward is multiplied by for each token that it comes later: γ.
    pub gamma: f64,
    /// How far advantages look ahead: λ of generalised advantage estimation. 0 looks one token ahead, 1 to the
    /// reply's end.
    pub lam: f64,
    /// Whether each rollout's rewards are scaled to variance 1.
    pub whiten_rewards: bool,
    /// Whether each rollout's advantages are scaled to mean 0 and variance 1.
    pub whiten_advantages: bool,
    /// What is taken off the score of a reply that does not end within the allowed tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_eos_penalty: Option<f64>,
    /// What the critic begins with.
    pub value_init: ValueInit,
    /// Lets the reference follow the policy; it stays the model at the start by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_ref_model: Option<MovingReference>,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            rewards: Vec::new(),
            max_completion_length: 53,
            num_ppo_epochs: 4,
            num_mini_batches: 1,
            kl_coef: 0.05,
            kl_estimator: KlEstimator::K1,
            adaptive_kl: None,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            gamma: 1.0,
            lam: 0.95,
            whiten_rewards: false,
            whiten_advantages: true,
            missing_eos_penalty: None,
            value_init: ValueInit::Zero,
            sync_ref_model: None,
        }
    }
}

/// How the tokens of a group's replies are weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupLoss {
    /// Every token alike. arXiv:2503.14476, eq. 8.
    #[default]
    Dapo,
    /// Every reply alike: its tokens share its weight. arXiv:2402.03300, eq. 3.
    Grpo,
    /// Every token alike, over what the longest possible replies would have. arXiv:2503.20783, section 3.2.
    DrGrpo,
}

/// What a group's replies are measured against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Their mean: GRPO.
    #[default]
    Group,
    /// The mean of the others: RLOO.
    LeaveOneOut,
}

/// Options of GRPO, Dr. GRPO, DAPO's loss and RLOO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoConfig {
    /// What replies earn; the weighted sum is learnt.
    pub rewards: Vec<RewardFunction>,
    /// How many replies the policy writes to each prompt: a group, whose rewards are compared.
    pub num_generations: usize,
    /// The most tokens of a reply that the policy writes.
    pub max_completion_length: usize,
    /// How often each rollout is learnt from.
    pub num_iterations: usize,
    /// Into how many optimiser steps a rollout is divided.
    pub steps_per_generation: usize,
    /// What the distance from the reference costs in the loss: β (estimator k3). 0 leaves it out, and no reference is
    /// needed.
    pub beta: f64,
    /// How far the policy's probability of a token may fall below the rollout's before its gradient stops: ε, as a
    /// share.
    pub epsilon: f64,
    /// How far it may rise above; as `epsilon` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon_high: Option<f64>,
    /// How the tokens of a group's replies are weighed.
    pub loss_type: GroupLoss,
    /// What a reply's reward is compared with.
    pub estimator: Estimator,
    /// What a group's advantages are divided by; nothing under `leave_one_out`.
    pub scale_rewards: GroupScale,
    /// Lets the reference follow the policy; it stays the model at the start by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_ref_model: Option<MovingReference>,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            rewards: Vec::new(),
            num_generations: 8,
            max_completion_length: 256,
            num_iterations: 1,
            steps_per_generation: 1,
            beta: 0.0,
            epsilon: 0.2,
            epsilon_high: None,
            loss_type: GroupLoss::Dapo,
            estimator: Estimator::Group,
            scale_rewards: GroupScale::Group,
            sync_ref_model: None,
        }
    }
}

/// A number with the bounds that it must keep.
type Bound = (&'static str, f64, f64, f64, &'static str);

fn check(rewards: &[RewardFunction], counts: &[(&'static str, usize)], numbers: &[Bound]) -> Result<()> {
    if rewards.is_empty() {
        return Err(Error::Option {
            option: "rewards",
            wanted: "at least one, such as { kind = \"length\", target = 20 }",
            found: "none".into(),
        });
    }
    if let Some(reward) = rewards.iter().find(|reward| !reward.weight().is_finite()) {
        return Err(Error::Option {
            option: "rewards",
            wanted: "a `weight` that is a number",
            found: reward.weight().to_string(),
        });
    }
    if rewards.iter().all(|reward| reward.weight() == 0.0) {
        return Err(Error::Option {
            option: "rewards",
            wanted: "at least one whose `weight` is not 0: those of weight 0 are measured and teach nothing",
            found: "none".into(),
        });
    }
    if let Some((option, _)) = counts.iter().find(|(_, count)| *count == 0) {
        return Err(Error::Option {
            option,
            wanted: "at least 1",
            found: "0".into(),
        });
    }
    match numbers
        .iter()
        .find(|(_, number, low, high, _)| !(low..=high).contains(&number))
    {
        None => Ok(()),
        Some(&(option, number, _, _, wanted)) => Err(Error::Option {
            option,
            wanted,
            found: number.to_string(),
        }),
    }
}

fn check_moving(moving: Option<MovingReference>) -> Result<()> {
    let moving = moving.unwrap_or_default();
    let (option, wanted, found) = if !(moving.ref_model_mixup_alpha > 0.0 && moving.ref_model_mixup_alpha <= 1.0) {
        let alpha = moving.ref_model_mixup_alpha.to_string();
        ("sync_ref_model.ref_model_mixup_alpha", "above 0, at most 1", alpha)
    } else if moving.ref_model_sync_steps == 0 {
        ("sync_ref_model.ref_model_sync_steps", "at least 1", "0".to_owned())
    } else {
        return Ok(());
    };
    Err(Error::Option { option, wanted, found })
}

impl PpoConfig {
    /// Errors: no reward, a number outside its range.
    pub fn check(&self) -> Result<()> {
        let share = "0 to 1";
        let some = "0 or more";
        let counts = [
            ("max_completion_length", self.max_completion_length),
            ("num_ppo_epochs", self.num_ppo_epochs),
            ("num_mini_batches", self.num_mini_batches),
        ];
        let adaptive = self.adaptive_kl.unwrap_or(AdaptiveKl {
            target: 1.0,
            horizon: 1.0,
        });
        check(
            &self.rewards,
            &counts,
            &[
                ("kl_coef", self.kl_coef, 0.0, f64::MAX, some),
                (
                    "adaptive_kl.target",
                    adaptive.target,
                    f64::MIN_POSITIVE,
                    f64::MAX,
                    "a number above 0",
                ),
                (
                    "adaptive_kl.horizon",
                    adaptive.horizon,
                    f64::MIN_POSITIVE,
                    f64::MAX,
                    "a number above 0",
                ),
                (
                    "cliprange",
                    self.cliprange,
                    f64::MIN_POSITIVE,
                    f64::MAX,
                    "a number above 0",
                ),
                (
                    "cliprange_value",
                    self.cliprange_value,
                    f64::MIN_POSITIVE,
                    f64::MAX,
                    "a number above 0",
                ),
                ("vf_coef", self.vf_coef, 0.0, f64::MAX, some),
                ("gamma", self.gamma, 0.0, 1.0, share),
                ("lam", self.lam, 0.0, 1.0, share),
                (
                    "missing_eos_penalty",
                    self.missing_eos_penalty.unwrap_or(0.0),
                    0.0,
                    f64::MAX,
                    some,
                ),
            ],
        )?;
        let has_model = self
            .rewards
            .iter()
            .any(|reward| matches!(reward, RewardFunction::Model { .. }));
        if self.value_init == ValueInit::RewardModel && !has_model {
            return Err(Error::Option {
                option: "value_init",
                wanted: "a reward of `kind = \"model\"` among `rewards`, whose head it begins with",
                found: "none".into(),
            });
        }
        check_moving(self.sync_ref_model)
    }
}

impl GrpoConfig {
    /// Errors: no reward, a group of one, a number outside its range, a scale that RLOO has not.
    pub fn check(&self) -> Result<()> {
        let some = "0 or more";
        let counts = [
            ("max_completion_length", self.max_completion_length),
            ("num_iterations", self.num_iterations),
            ("steps_per_generation", self.steps_per_generation),
        ];
        let high = self.epsilon_high.unwrap_or(self.epsilon);
        check(
            &self.rewards,
            &counts,
            &[
                ("beta", self.beta, 0.0, f64::MAX, some),
                ("epsilon", self.epsilon, f64::MIN_POSITIVE, f64::MAX, "a number above 0"),
                ("epsilon_high", high, f64::MIN_POSITIVE, f64::MAX, "a number above 0"),
                (
                    "num_generations",
                    self.num_generations as f64,
                    2.0,
                    f64::MAX,
                    "at least 2",
                ),
            ],
        )?;
        if self.estimator == Estimator::LeaveOneOut && self.scale_rewards == GroupScale::Batch {
            return Err(Error::NoEffect {
                option: "scale_rewards",
                found: "`estimator = \"leave_one_out\"`".into(),
                hint: "remove it, or use `estimator = \"group\"`",
            });
        }
        if self.sync_ref_model.is_some() && self.beta == 0.0 {
            return Err(Error::NoEffect {
                option: "sync_ref_model",
                found: "`beta = 0`, which needs no reference".into(),
                hint: "remove it, or set `beta`",
            });
        }
        check_moving(self.sync_ref_model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(weight: f64) -> RewardFunction {
        RewardFunction::Length { target: 8, weight }
    }

    fn ppo(change: impl FnOnce(&mut PpoConfig)) -> Result<()> {
        let mut config = PpoConfig {
            rewards: vec![length(1.0), length(0.0)],
            ..PpoConfig::default()
        };
        change(&mut config);
        config.check()
    }

    fn grpo(change: impl FnOnce(&mut GrpoConfig)) -> Result<()> {
        let mut config = GrpoConfig {
            rewards: vec![length(1.0)],
            ..GrpoConfig::default()
        };
        change(&mut config);
        config.check()
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_option() {
        ppo(|_| ()).unwrap();
        grpo(|_| ()).unwrap();
        let moving = Some(MovingReference {
            ref_model_mixup_alpha: 0.0,
            ..MovingReference::default()
        });
        let refused = [
            (ppo(|config| config.rewards.clear()), "`rewards`"),
            (ppo(|config| config.rewards = vec![length(0.0)]), "teach nothing"),
            (ppo(|config| config.rewards = vec![length(f64::NAN)]), "found NaN"),
            (ppo(|config| config.gamma = 1.5), "`gamma`"),
            (ppo(|config| config.num_mini_batches = 0), "`num_mini_batches`"),
            (ppo(|config| config.value_init = ValueInit::RewardModel), "`value_init`"),
            (ppo(|config| config.sync_ref_model = moving), "ref_model_mixup_alpha"),
            (grpo(|config| config.num_generations = 1), "`num_generations`"),
            (grpo(|config| config.epsilon = f64::NAN), "`epsilon`"),
            (grpo(|config| config.sync_ref_model = moving), "`sync_ref_model`"),
        ];
        for (found, wanted) in refused {
            let error = found.unwrap_err().to_string();
            assert!(error.contains(wanted), "`{wanted}` in: {error}");
        }
        let rloo = grpo(|config| {
            config.estimator = Estimator::LeaveOneOut;
            config.scale_rewards = GroupScale::Batch;
        });
        assert!(rloo.unwrap_err().to_string().contains("scale_rewards"));
    }
}
