//! What a mixture is: agents, the layers they stand in, and who has the last word.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A mixture of agents. Keys are those of the paper's own program where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoaConfig {
    /// The agents by name.
    pub agents: BTreeMap<String, AgentConfig>,
    /// The names in each layer before the aggregator; a name may stand twice, and then speaks twice.
    #[serde(default)]
    pub layers: Vec<Vec<String>>,
    /// Instead of `layers`: the same agents in each of `rounds` layers.
    #[serde(default)]
    pub reference_models: Vec<String>,
    /// How many layers of `reference_models` there are.
    #[serde(default = "one")]
    pub rounds: usize,
    /// Who has the last word.
    pub aggregator: String,
    /// What the aggregator does with the last layer's answers.
    #[serde(default)]
    pub aggregation: Aggregation,
    /// Of agents that say no other.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// The most tokens of an answer, of agents that say no other.
    #[serde(default = "max_tokens")]
    pub max_tokens: usize,
    /// The most tokens of all references that an agent is shown: longer ones are cut, the longest first.
    #[serde(default)]
    pub max_reference_tokens: Option<usize>,
    /// The most tokens that all agents may write in one run; the aggregator's are kept for it.
    #[serde(default)]
    pub token_budget: Option<usize>,
    /// What agents are told before references, instead of the built-in text.
    #[serde(default)]
    pub synthesis_prompt: Option<String>,
    /// Where random numbers start.
    #[serde(default)]
    pub seed: u64,
}

/// One agent: a local model with, perhaps, an adapter; or an endpoint that speaks OpenAI's protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// A model's name: as local models are named, or as the endpoint knows it.
    pub model: String,
    /// An adapter over the local model.
    #[serde(default)]
    pub adapter: Option<PathBuf>,
    /// Where the model answers, such as `http://localhost:8000/v1`; none for a local one.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The environment variable that holds the endpoint's key.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// What logits are divided by.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// The most tokens of an answer.
    #[serde(default)]
    pub max_tokens: Option<usize>,
    /// What the agent is told first.
    #[serde(default)]
    pub system: Option<String>,
    /// How long one attempt at an endpoint may take, in seconds.
    #[serde(default = "timeout")]
    pub timeout_seconds: f64,
    /// How often an endpoint is asked again.
    #[serde(default = "retries")]
    pub max_retries: usize,
    /// The first pause before asking again, in seconds; it doubles up to 32 times this.
    #[serde(default = "backoff")]
    pub backoff_seconds: f64,
}

/// What the aggregator does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// One answer out of all.
    #[default]
    Synthesise,
    /// The best of them, as it stands.
    Rank,
}

/// The longest time that is waited for anything.
const MOST_SECONDS: f64 = 86_400.0;

fn one() -> usize {
    1
}

fn temperature() -> f64 {
    0.7
}

fn max_tokens() -> usize {
    512
}

fn timeout() -> f64 {
    60.0
}

fn retries() -> usize {
    5
}

fn backoff() -> f64 {
    1.0
}

impl MoaConfig {
    /// The layers before the aggregator: those written out, or the reference models in each round.
    pub fn proposers(&self) -> Vec<Vec<String>> {
        if self.reference_models.is_empty() {
            self.layers.clone()
        } else {
            vec![self.reference_models.clone(); self.rounds]
        }
    }

    /// How many calls a run makes.
    pub fn num_calls(&self) -> usize {
        self.proposers().iter().map(Vec::len).sum::<usize>() + 1
    }

    /// An error unless every name and number can be.
    pub fn check(&self) -> Result<()> {
        let known = self
            .agents
            .keys()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let named = |key: String, name: &String| match self.agents.contains_key(name) {
            true => Ok(()),
            false => Err(Error::NoAgent {
                key,
                found: name.clone(),
                known: known.clone(),
            }),
        };
        let refuse = |key: String, wanted: &str, found: String, hint| {
            Err(Error::Option {
                key,
                wanted: wanted.into(),
                found,
                hint,
            })
        };
        if !self.layers.is_empty() && !self.reference_models.is_empty() {
            let hint = "`layers` writes each layer out; `reference_models` repeats one";
            return refuse(
                "layers".into(),
                "none beside `reference_models`",
                format!("{} layers", self.layers.len()),
                hint,
            );
        }
        for (idx, layer) in self.layers.iter().enumerate() {
            if layer.is_empty() {
                return refuse(
                    format!("layers.{idx}"),
                    "at least one agent",
                    "none".into(),
                    "remove the layer",
                );
            }
            layer.iter().try_for_each(|name| named(format!("layers.{idx}"), name))?;
        }
        self.reference_models
            .iter()
            .try_for_each(|name| named("reference_models".into(), name))?;
        named("aggregator".into(), &self.aggregator)?;
        if self.aggregation == Aggregation::Rank && self.proposers().is_empty() {
            let hint = "add `layers`, or let it synthesise";
            return refuse(
                "aggregation".into(),
                "something to rank",
                "no layer before the aggregator".into(),
                hint,
            );
        }
        if let Some(budget) = self.token_budget.filter(|budget| *budget < self.num_calls()) {
            let wanted = format!("a token a call at least, {}", self.num_calls());
            return refuse(
                "token_budget".into(),
                &wanted,
                budget.to_string(),
                "fewer agents, or more tokens",
            );
        }
        let temperatures = self
            .agents
            .iter()
            .map(|(name, agent)| (format!("agents.{name}.temperature"), agent.temperature));
        for (key, value) in temperatures.chain([("temperature".to_owned(), Some(self.temperature))]) {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
                return refuse(
                    key,
                    "a number of 0 or more",
                    value.to_string(),
                    "0 takes the likeliest token",
                );
            }
        }
        self.agents.iter().try_for_each(|(name, agent)| agent.check(name))
    }
}

impl AgentConfig {
    fn check(&self, name: &str) -> Result<()> {
        let refuse = |key: &str, wanted: &str, found: String, hint| {
            Err(Error::Option {
                key: format!("agents.{name}.{key}"),
                wanted: wanted.into(),
                found,
                hint,
            })
        };
        match &self.endpoint {
            Some(endpoint) if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") => {
                return refuse(
                    "endpoint",
                    "an address with http:// or https://",
                    endpoint.clone(),
                    "such as http://localhost:8000/v1",
                );
            }
            Some(_) if self.adapter.is_some() => {
                let hint = "an endpoint chooses adapters by `model`";
                return refuse("adapter", "none beside an `endpoint`", "one".into(), hint);
            }
            _ => {}
        }
        for (key, value) in [
            ("timeout_seconds", self.timeout_seconds),
            ("backoff_seconds", self.backoff_seconds),
        ] {
            if !(value > 0.0 && value <= MOST_SECONDS) {
                return refuse(key, "a number above 0, up to a day's", value.to_string(), "seconds");
            }
        }
        Ok(())
    }
}
