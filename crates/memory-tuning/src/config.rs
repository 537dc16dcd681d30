//! The options of a memory, checked once.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor_core::{Modules, Targets};

use crate::{Error, Result};

/// `target_modules`: a list of names, or one string (a pattern, or `all-linear`), with PEFT's meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// `all-linear`, or a regular expression for whole paths.
    One(String),
    /// Whole paths or suffixes after a dot.
    Many(Vec<String>),
}

/// What one row of the table computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpertKind {
    /// `v (uᵀ x)`: a `LoRA` of rank `expert_rank`, as in Lamini's mixture of memory experts.
    #[default]
    LowRank,
    /// `v`: a value, as in product-key memories.
    Value,
}

/// What makes the memories of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Which projections get a memory beside them.
    pub target_modules: TargetModules,
    /// Only in the layers of these numbers, counted from 0; in all by default.
    pub layers_to_transform: Option<Vec<usize>>,
    /// How many experts each memory has: a square number, since an expert's key is a pair of sub-keys.
    pub num_experts: usize,
    /// What an expert computes.
    pub expert: ExpertKind,
    /// The rank of a low-rank expert.
    pub expert_rank: usize,
    /// How many experts answer a token.
    pub top_k: usize,
    /// The temperature of the softmax over their scores: the lower, the more the best of them counts.
    pub temperature: f64,
    /// The width of queries and keys.
    pub query_dim: usize,
    /// What the experts' sum is multiplied by.
    pub scale: f64,
    /// The seed of the keys and the experts' first factors.
    pub seed: u64,
    /// A saved memory that is gone on with: more facts, or other answers to the same questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_from: Option<PathBuf>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            target_modules: TargetModules::Many(vec!["down_proj".into()]),
            layers_to_transform: None,
            num_experts: 1 << 20,
            expert: ExpertKind::default(),
            expert_rank: 1,
            top_k: 32,
            temperature: 0.125,
            query_dim: 128,
            scale: 1.0,
            seed: 0,
            continue_from: None,
        }
    }
}

/// Beyond this, an expert's number has no room in a table's index.
const MOST_EXPERTS: usize = 1 << 31;

impl MemoryConfig {
    /// Refuses values that cannot work.
    pub fn check(&self) -> Result<()> {
        let refuse = |option, found: String, hint: String| Err(Error::Option { option, found, hint });
        let n = self.num_keys();
        if n * n != self.num_experts || n == 0 || self.num_experts > MOST_EXPERTS {
            let near = (n.max(1).pow(2), (n + 1).pow(2));
            return refuse(
                "num_experts",
                format!("{} is no square up to 2^31", self.num_experts),
                format!("an expert has a pair of sub-keys: take {} or {}", near.0, near.1),
            );
        }
        if self.top_k == 0 || self.top_k > self.num_experts {
            let hint = "8 to 32 are usual".to_owned();
            return refuse("top_k", format!("{} of {}", self.top_k, self.num_experts), hint);
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let hint = "1 shares alike among all, 0.125 favours the best".to_owned();
            return refuse("temperature", self.temperature.to_string(), hint);
        }
        if self.query_dim == 0 || !self.query_dim.is_multiple_of(2) {
            let hint = "a query is cut in two halves: take an even width, such as 128".to_owned();
            return refuse("query_dim", self.query_dim.to_string(), hint);
        }
        if self.expert_rank == 0 || (self.expert == ExpertKind::Value && self.expert_rank != 1) {
            let hint = "a low-rank expert has rank 1 at least; a value has no rank".to_owned();
            return refuse("expert_rank", self.expert_rank.to_string(), hint);
        }
        if !(self.scale.is_finite() && self.scale != 0.0) {
            let hint = "take 1, or what the experts' sum shall be multiplied by".to_owned();
            return refuse("scale", self.scale.to_string(), hint);
        }
        Ok(())
    }

    /// The modules that are chosen.
    pub fn modules(&self) -> Result<Modules> {
        let refused = |error: tensor_core::Error| Error::Option {
            option: "target_modules",
            found: error.to_string(),
            hint: "a pattern is a regular expression for whole paths".into(),
        };
        let targets = match &self.target_modules {
            TargetModules::One(word) if word == "all-linear" => Targets::AllLinear,
            TargetModules::One(pattern) => Targets::Pattern(pattern.clone()),
            TargetModules::Many(names) => Targets::Names(names.clone()),
        };
        if matches!(targets, Targets::Pattern(_)) && self.layers_to_transform.is_some() {
            return Err(Error::Option {
                option: "layers_to_transform",
                found: "given with a pattern in `target_modules`".into(),
                hint: "write the layers into the pattern, or list the modules".into(),
            });
        }
        let modules = Modules::new(targets).map_err(refused)?;
        match &self.layers_to_transform {
            Some(layers) => modules.in_layers(layers.clone(), &[]).map_err(refused),
            None => Ok(modules),
        }
    }

    /// n, sub-keys of each half: the root of N.
    pub fn num_keys(&self) -> usize {
        self.num_experts.isqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let read = |text: &str| serde_json::from_str::<MemoryConfig>(text).unwrap().check();
        for (text, wanted) in [
            (r#"{"num_experts": 1000}"#, "961 or 1024"),
            (r#"{"num_experts": 0}"#, "num_experts"),
            (r#"{"num_experts": 4, "top_k": 5}"#, "5 of 4"),
            (r#"{"temperature": 0.0}"#, "temperature"),
            (r#"{"query_dim": 7}"#, "query_dim"),
            (r#"{"expert": "value", "expert_rank": 2}"#, "expert_rank"),
            (r#"{"scale": 0.0}"#, "scale"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("hint"), "{text}: {error}");
        }
        read("{}").unwrap();
    }
}
