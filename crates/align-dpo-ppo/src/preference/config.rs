//! Which losses over pairs, how strong, in which proportions: TRL's keys.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{IntoDeserializer as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{LossType, Strength, listed};
use crate::{Error, Likelihood, Result};

/// A loss, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Terms {
    /// One.
    One(LossType),
    /// Their weighted sum.
    Several(Vec<LossType>),
}

/// A name or a list of names, so that a name that is none is told which there are.
impl<'de> Deserialize<'de> for Terms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Terms;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a loss or a list of losses")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Terms, E> {
                LossType::deserialize(name.into_deserializer()).map(Terms::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<Terms, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(Terms::Several)
            }
        }

        deserializer.deserialize_any(Names)
    }
}

/// Options of a loss over pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceConfig {
    /// How strongly the policy is held to the reference: β of the losses. Larger values keep it nearer; 0.01 to 0.5
    /// are usual.
    pub beta: f64,
    /// The loss, or a list of losses that are added.
    pub loss_type: Terms,
    /// The weight of each of several losses; 1 each by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_weights: Option<Vec<f64>>,
    /// The share of pairs whose better and worse reply may be confused, for `cdpo` and `robust`: ε, from 0 to below
    /// 0.5.
    pub label_smoothing: f64,
    /// The margin by which the better reply shall be likelier, for `simpo`: γ; 0.5 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simpo_gamma: Option<f64>,
    /// Whether log-probabilities under the reference are computed before the first step and kept on disk.
    pub precompute_ref_log_probs: bool,
}

/// Options of ORPO: `loss_type = "orpo"` as its authors train it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OrpoConfig {
    /// λ of the paper: what the log odds weigh beside the likelihood.
    pub beta: f64,
    /// Whether the likelihood is of the prompt too, as the authors' code and TRL have it; else of the reply alone.
    pub prompt_in_nll: bool,
}

impl Default for OrpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            prompt_in_nll: true,
        }
    }
}

impl OrpoConfig {
    /// The loss, and what its likelihood is of.
    pub fn preference(&self) -> (PreferenceConfig, Likelihood) {
        let config = PreferenceConfig {
            beta: self.beta,
            loss_type: Terms::One(LossType::Orpo),
            ..PreferenceConfig::default()
        };
        let likelihood = if self.prompt_in_nll {
            Likelihood::Document
        } else {
            Likelihood::Reply
        };
        (config, likelihood)
    }
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss_type: Terms::One(LossType::Sigmoid),
            loss_weights: None,
            label_smoothing: 0.0,
            simpo_gamma: None,
            precompute_ref_log_probs: false,
        }
    }
}

impl PreferenceConfig {
    /// Whether a loss compares with a reference.
    pub fn needs_reference(&self) -> bool {
        match &self.loss_type {
            Terms::One(loss) => loss.needs_reference(),
            Terms::Several(losses) => losses.iter().any(|loss| loss.needs_reference()),
        }
    }

    /// Each loss with its weight, and their common strength.
    ///
    /// Errors: a number outside its range, weights that do not fit the losses, an option that none of them asks for.
    pub fn terms(&self) -> Result<(Vec<(LossType, f64)>, Strength)> {
        let losses = match &self.loss_type {
            Terms::One(loss) => std::slice::from_ref(loss),
            Terms::Several(losses) => losses,
        };
        let refuse = |option, wanted, found: String| Err(Error::Option { option, wanted, found });
        if losses.is_empty() {
            return refuse("loss_type", "at least one loss", "none".into());
        }
        if !(self.beta > 0.0 && self.beta.is_finite()) {
            return refuse("beta", "a number above 0", self.beta.to_string());
        }
        if !(0.0..0.5).contains(&self.label_smoothing) {
            return refuse("label_smoothing", "0 to below 0.5", self.label_smoothing.to_string());
        }
        let has = |asks: fn(LossType) -> bool| losses.iter().any(|&loss| asks(loss));
        let no_effect = |option, hint| {
            Err(Error::NoEffect {
                option,
                found: listed(losses),
                hint,
            })
        };
        if self.label_smoothing > 0.0 && !has(LossType::smooths_labels) {
            return no_effect("label_smoothing", "use `loss_type = \"cdpo\"` or `\"robust\"`");
        }
        if self.simpo_gamma.is_some() && !has(|loss| loss == LossType::Simpo) {
            return no_effect("simpo_gamma", "use `loss_type = \"simpo\"`");
        }
        if self.precompute_ref_log_probs && !has(LossType::needs_reference) {
            return no_effect(
                "precompute_ref_log_probs",
                "remove it: nothing is compared with a reference",
            );
        }
        let weights = match &self.loss_weights {
            None => vec![1.0; losses.len()],
            Some(weights) if weights.len() != losses.len() => {
                return refuse("loss_weights", "one weight a loss", weights.len().to_string());
            }
            Some(weights) => weights.clone(),
        };
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return refuse("loss_weights", "finite numbers", weight.to_string());
        }
        let strength = Strength {
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            simpo_gamma: self.simpo_gamma.unwrap_or(Strength::default().simpo_gamma),
        };
        Ok((losses.iter().copied().zip(weights).collect(), strength))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_be_or_do_nothing_are_refused_by_name() {
        let config = PreferenceConfig::default;
        let several = |losses: &[LossType]| Terms::Several(losses.to_vec());
        let cases = [
            (PreferenceConfig { beta: 0.0, ..config() }, "`beta`"),
            (
                PreferenceConfig {
                    label_smoothing: 0.1,
                    ..config()
                },
                "`label_smoothing`: it has no effect on `sigmoid`",
            ),
            (
                PreferenceConfig {
                    label_smoothing: 0.5,
                    loss_type: Terms::One(LossType::Robust),
                    ..config()
                },
                "below 0.5",
            ),
            (
                PreferenceConfig {
                    simpo_gamma: Some(1.0),
                    ..config()
                },
                "`simpo_gamma`",
            ),
            (
                PreferenceConfig {
                    loss_type: several(&[LossType::Sigmoid, LossType::Sft]),
                    loss_weights: Some(vec![1.0]),
                    ..config()
                },
                "`loss_weights`",
            ),
            (
                PreferenceConfig {
                    loss_type: several(&[]),
                    ..config()
                },
                "`loss_type`",
            ),
        ];
        for (config, needle) in cases {
            let error = config.terms().unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
        let read = |loss: serde_json::Value| serde_json::from_value::<Terms>(loss);
        assert_eq!(read(serde_json::json!("ipo")).unwrap(), Terms::One(LossType::Ipo));
        assert_eq!(
            read(serde_json::json!(["ipo", "sft"])).unwrap(),
            several(&[LossType::Ipo, LossType::Sft])
        );
        let error = read(serde_json::json!("sigmod")).unwrap_err().to_string();
        assert!(
            error.contains("unknown variant `sigmod`, expected one of `sigmoid`"),
            "{error}"
        );
        let mixed = PreferenceConfig {
            loss_type: several(&[LossType::Sigmoid, LossType::Sft]),
            loss_weights: Some(vec![1.0, 0.2]),
            ..config()
        };
        assert_eq!(
            mixed.terms().unwrap().0,
            [(LossType::Sigmoid, 1.0), (LossType::Sft, 0.2)]
        );
    }
}
