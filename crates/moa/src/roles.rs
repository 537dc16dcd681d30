//! What each agent is worth in each role, on questions whose answers can be scored: whom a mixture should choose.
//!
//! Source: Wang et al. 2024, arXiv:2406.04692, section 3.3: a model can be good at proposing and poor at aggregating, or
//! the other way round, and proposals should be good and differ.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{MoaConfig, Outcome, Result, distinct};

/// One agent's worth: means of scores over the questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Worth {
    /// Of its answers when it is asked alone.
    pub alone: f64,
    /// Of the configured aggregator's answers when it has read this agent's alone.
    pub proposer: f64,
    /// Of its answers when it has read everybody's.
    pub aggregator: f64,
}

/// All agents' worth.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Roles {
    /// By name.
    pub agents: BTreeMap<String, Worth>,
    /// The share of different word pairs in all agents' answers to one question, in the mean: how much they differ.
    pub distinct_2: f64,
    /// Calls that failed and were left out.
    pub failures: usize,
}

/// Measures every agent of `config` in every role.
///
/// `respond` answers question `idx` as a configuration says, `score` says how good an answer to it is, 0 to 1; a
/// question that nobody could answer scores 0. Errors: what `respond` refuses for another reason than a failed agent.
pub fn roles(
    config: &MoaConfig,
    num_questions: usize,
    respond: &mut dyn FnMut(&MoaConfig, usize) -> Result<Outcome>,
    score: &dyn Fn(usize, &str) -> f64,
) -> Result<Roles> {
    let names: Vec<String> = config.agents.keys().cloned().collect();
    let mut found = Roles::default();
    for name in &names {
        let mut worth = Worth::default();
        let stages: [(&mut f64, Vec<Vec<String>>, &str); 3] = [
            (&mut worth.alone, Vec::new(), name),
            (&mut worth.proposer, vec![vec![name.clone()]], &config.aggregator),
            (&mut worth.aggregator, vec![names.clone()], name),
        ];
        for (sum, layers, aggregator) in stages {
            let arranged = MoaConfig {
                layers,
                reference_models: Vec::new(),
                aggregator: aggregator.to_owned(),
                ..config.clone()
            };
            for idx in 0..num_questions {
                let outcome = respond(&arranged, idx)?;
                *sum += score(idx, &outcome.text) / num_questions as f64;
                found.failures += outcome.failures().count();
                // The same proposals for every aggregator: once is enough.
                if arranged.layers.iter().any(|layer| layer.len() == names.len()) && Some(name) == names.first() {
                    let said = outcome.calls.iter().filter(|call| call.layer == 0);
                    let texts: Vec<&str> = said.filter_map(|call| call.text.as_deref()).collect();
                    found.distinct_2 += distinct(&texts, 2) / num_questions as f64;
                }
            }
        }
        found.agents.insert(name.clone(), worth);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Endpoints, Failure, Message, Mixture, Reply, Request};

    /// `knows` says the answer; `reads` says it if anybody else did; `lost` never does.
    struct Three;

    impl Backend for Three {
        fn respond(&mut self, requests: &[Request]) -> Vec<Result<Reply, Failure>> {
            let answer = |request: &Request| {
                let has_read = request.messages.iter().any(|message| message.content.contains("xyzzy"));
                let text = match request.agent.as_str() {
                    "knows" => "it is xyzzy",
                    "reads" if has_read => "so it is xyzzy",
                    _ => "no idea",
                };
                Ok(Reply {
                    text: text.to_owned(),
                    tokens: 1,
                    attempts: 1,
                })
            };
            requests.iter().map(answer).collect()
        }
    }

    #[test]
    fn each_agent_is_told_apart_by_its_role() {
        let config: MoaConfig = serde_json::from_str(
            r#"{"agents": {"knows": {"model": "x"}, "reads": {"model": "x"}, "lost": {"model": "x"}},
                "layers": [["knows"]], "aggregator": "reads"}"#,
        )
        .unwrap();
        let mut respond = |config: &MoaConfig, idx: usize| {
            let mut local = Three;
            let endpoints = Endpoints::of(config, |_| None);
            let question = format!("question {idx}?");
            Mixture::new(config.clone(), endpoints, &mut local)?.respond(&[Message::new("user", question)], &mut ())
        };
        let score = |_: usize, text: &str| f64::from(u8::from(text.contains("xyzzy")));
        let found = roles(&config, 2, &mut respond, &score).unwrap();
        let worth = |alone, proposer, aggregator| Worth {
            alone,
            proposer,
            aggregator,
        };
        assert_eq!(found.agents["knows"], worth(1.0, 1.0, 1.0));
        assert_eq!(found.agents["reads"], worth(0.0, 0.0, 1.0));
        assert_eq!(found.agents["lost"], worth(0.0, 0.0, 0.0));
        // "it is", "is xyzzy", and "no idea" twice: three different pairs of four.
        assert!((found.distinct_2 - 0.75).abs() < 1e-12, "{}", found.distinct_2);
    }
}
