//! Several rewards as one: a weighted sum, each part told.

use std::collections::BTreeMap;

use tch::Tensor;

use super::{OpenModel, Reward, RewardFunction, Said};
use crate::Result;

/// What a reply earned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// By name; those that could not be told are left out.
    pub parts: BTreeMap<String, f64>,
    /// The weighted sum; none if a part of weight could not be told.
    pub score: Option<f64>,
    /// Why a part could not be told.
    pub failed: Option<String>,
}

/// Rewards with their weights. One of weight 0 is measured and teaches nothing.
pub struct Rewards {
    each: Vec<(String, f64, Box<dyn Reward>)>,
    direction: Option<Tensor>,
}

impl Rewards {
    /// Opens them all, reward models by `open`. Names are the kinds; a second one of a kind is `KIND_2`.
    ///
    /// Errors: what [`RewardFunction::ready`] refuses.
    pub fn open(functions: &[RewardFunction], open: &mut OpenModel) -> Result<Self> {
        let mut each: Vec<(String, f64, Box<dyn Reward>)> = Vec::new();
        let mut direction = None;
        for function in functions {
            let reward = function.ready(&mut |model, adapter| {
                let reward = open(model, adapter)?;
                direction.get_or_insert_with(|| reward.direction());
                Ok(reward)
            })?;
            let kind = reward.name().to_owned();
            let same = each.iter().filter(|(_, _, other)| other.name() == kind).count();
            let name = if same == 0 {
                kind
            } else {
                format!("{kind}_{}", same + 1)
            };
            each.push((name, function.weight(), reward));
        }
        Ok(Self { each, direction })
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.each.iter().map(|(name, ..)| name.as_str())
    }

    /// The head of the first reward model, `[d]`.
    pub fn direction(&self) -> Option<&Tensor> {
        self.direction.as_ref()
    }

    /// The verdict on each reply.
    ///
    /// Errors: what [`Reward::scores`] refuses.
    pub fn judge(&self, replies: &[Said]) -> Result<Vec<Verdict>> {
        let mut verdicts = vec![
            Verdict {
                score: Some(0.0),
                ..Verdict::default()
            };
            replies.len()
        ];
        for (name, weight, reward) in &self.each {
            for (verdict, score) in verdicts.iter_mut().zip(reward.scores(replies)?) {
                let finite = |score: f64| {
                    if score.is_finite() {
                        Ok(score)
                    } else {
                        Err(format!("a score of {score}"))
                    }
                };
                match score.and_then(finite) {
                    Ok(score) => {
                        verdict.parts.insert(name.clone(), score);
                        verdict.score = verdict.score.map(|sum| sum + weight * score);
                    }
                    Err(why) => {
                        if *weight != 0.0 {
                            verdict.score = None;
                        }
                        verdict.failed.get_or_insert(format!("{name}: {why}"));
                    }
                }
            }
        }
        Ok(verdicts)
    }
}

impl std::fmt::Debug for Rewards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.each.iter().map(|(name, weight, _)| (name, weight)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn parts_add_up_by_weight_and_a_part_that_fails_takes_the_sum_with_it_unless_it_only_measures() {
        let functions: Vec<RewardFunction> = serde_json::from_value(json!([
            { "kind": "length", "target": 4, "weight": 2.0 },
            { "kind": "regex", "pattern": "a" },
            { "kind": "regex", "pattern": "b", "weight": 0.0 },
            { "kind": "exact", "column": "answer", "weight": 0.0 },
        ]))
        .unwrap();
        let mut rewards = Rewards::open(&functions, &mut |_, _| Err("no model here".into())).unwrap();
        assert_eq!(
            rewards.names().collect::<Vec<_>>(),
            ["length", "regex", "regex_2", "exact"]
        );
        let extra = Map::new();
        let said = Said {
            prompt: "",
            reply: "ab",
            tokens: &[],
            num_tokens: 3,
            extra: &extra,
        };
        let verdict = rewards.judge(&[said]).unwrap().remove(0);
        assert_eq!(verdict.score, Some(2.5));
        assert_eq!(verdict.parts["regex_2"], 1.0);
        assert!(!verdict.parts.contains_key("exact"));
        assert!(verdict.failed.unwrap().starts_with("exact: the row has no column"));
        rewards.each[3].1 = 1.0;
        assert_eq!(rewards.judge(&[said]).unwrap()[0].score, None);
    }

    #[test]
    fn a_reward_model_that_cannot_be_opened_is_told() {
        let model: Vec<RewardFunction> = serde_json::from_value(json!([{ "kind": "model", "model": "m" }])).unwrap();
        let error = Rewards::open(&model, &mut |_, _| Err("no model here".into()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no model here"), "{error}");
    }
}
