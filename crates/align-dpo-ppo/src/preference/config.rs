//! Which losses over pairs, how strong, in which proportions: TRL's keys.

use serde::{Deserialize, Serialize};

use super::{LossType, Strength};
use crate::{Error, Result};

/// A loss, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Terms {
    /// One.
    One(LossType),
    /// Their weighted sum.
    Several(Vec<LossType>),
}

/// Options of a loss over pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceConfig {
    /// β.
    pub beta: f64,
    /// What is minimised.
    pub loss_type: Terms,
    /// The weight of each of several losses; 1 each by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_weights: Option<Vec<f64>>,
    /// ε of `cdpo` and `robust`.
    pub label_smoothing: f64,
    /// γ of `simpo`: 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simpo_gamma: Option<f64>,
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss_type: Terms::One(LossType::Sigmoid),
            loss_weights: None,
            label_smoothing: 0.0,
            simpo_gamma: None,
        }
    }
}

impl PreferenceConfig {
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
                found: format!("{losses:?}").to_lowercase(),
                hint,
            })
        };
        if self.label_smoothing > 0.0 && !has(LossType::smooths_labels) {
            return no_effect("label_smoothing", "use `loss_type = \"cdpo\"` or `\"robust\"`");
        }
        if self.simpo_gamma.is_some() && !has(|loss| loss == LossType::Simpo) {
            return no_effect("simpo_gamma", "use `loss_type = \"simpo\"`");
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
                "`label_smoothing`: it has no effect on [sigmoid]",
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
