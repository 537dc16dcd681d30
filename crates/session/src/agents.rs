//! Local agents of a mixture: models in memory, each once, with an adapter for each agent over it.
//!
//! Agents of one model are answered for as one batch, each prompt read with its own agent's adapter.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use data::{Chat, Message as Turn};
use decoder::{GenerateOptions, Sampler};
use events::Events;
use moa::{Backend, Failure, MoaConfig, Reply, Request};
use models::machine::Machine;
use models::prompts;
use tensor_core::AdapterRouting;

use crate::Loaded;
use crate::Opened;
use crate::adapters::AdapterArg;

/// Models in memory that answer for agents.
#[derive(Debug)]
pub struct LocalAgents {
    models: Vec<Loaded>,
    /// For each agent its model, and the name of its adapter there.
    agents: BTreeMap<String, (usize, Option<String>)>,
}

impl LocalAgents {
    /// Loads every model that a local agent of `config` names, with all of its agents' adapters.
    pub fn load(config: &MoaConfig, machine: &dyn Fn() -> Result<Machine>, events: &Events) -> Result<Self> {
        let mut names: Vec<&str> = Vec::new();
        let mut adapters: Vec<Vec<AdapterArg>> = Vec::new();
        let mut agents = BTreeMap::new();
        for (name, agent) in config.agents.iter().filter(|(_, agent)| agent.endpoint.is_none()) {
            let idx = names.iter().position(|known| *known == agent.model).unwrap_or_else(|| {
                names.push(&agent.model);
                adapters.push(Vec::new());
                names.len() - 1
            });
            let adapter = agent.adapter.as_ref().map(|path| {
                // Agents of one adapter share it.
                let there = adapters[idx]
                    .iter()
                    .find(|arg| arg.path == *path)
                    .and_then(|arg| arg.name.clone());
                there.unwrap_or_else(|| {
                    adapters[idx].push(AdapterArg {
                        path: path.clone(),
                        name: Some(name.clone()),
                        weight: None,
                    });
                    name.clone()
                })
            });
            agents.insert(name.clone(), (idx, adapter));
        }
        let load = |(name, adapter): (&str, Vec<AdapterArg>)| {
            let opened = Opened::new(name, None, &adapter, None, events);
            opened
                .and_then(|opened| opened.load(machine()?))
                .with_context(|| format!("model `{name}` of an agent"))
        };
        let models = names
            .iter()
            .copied()
            .zip(adapters)
            .map(load)
            .collect::<Result<Vec<_>>>()?;
        for (idx, name) in names.iter().enumerate() {
            let of = agents.values().filter(|(model, _)| *model == idx).count();
            events.note(|| format!("`{name}` is in memory once, for {of} agents"));
        }
        Ok(Self { models, agents })
    }

    fn of(&self, agent: &str) -> Result<(usize, AdapterRouting), Failure> {
        let found = self.agents.get(agent);
        let (idx, adapter) = found.ok_or_else(|| Failure::Local(format!("no local agent `{agent}`")))?;
        let mix = match (&self.models[*idx].adapters, adapter) {
            (Some(names), Some(adapter)) => names.mix([(adapter.as_str(), 1.0)]).map_err(|error| local(&error))?,
            _ => AdapterRouting::base(),
        };
        Ok((*idx, mix))
    }

    /// The prompt's tokens, if the model has room for an answer.
    fn prompt(&self, idx: usize, request: &Request) -> Result<Vec<u32>, Failure> {
        let loaded = &self.models[idx];
        let turns = request
            .messages
            .iter()
            .map(|message| Turn::new(&message.role, &message.content));
        let tokens = prompts::turns(&Chat::new(turns.collect()), &loaded.tokenizer).map_err(|error| local(&error))?;
        let most = loaded.model.max_positions();
        if tokens.len() >= most {
            return Err(Failure::Local(format!(
                "its prompt has {} tokens, its model sees {most}; `max_reference_tokens` cuts what it reads",
                tokens.len()
            )));
        }
        Ok(tokens)
    }

    /// Requests of one model that are drawn alike, as one batch.
    fn batch(
        &self,
        idx: usize,
        asked: &[(Vec<u32>, AdapterRouting, &Request)],
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Reply>> {
        let loaded = &self.models[idx];
        let first = asked.first().context("a batch has a request")?.2;
        let options = GenerateOptions {
            max_new_tokens: first.max_tokens,
            sampler: Sampler {
                temperature: first.temperature,
                seed: first.seed,
                ..Sampler::default()
            },
            mixes: match loaded.adapters {
                Some(_) => asked.iter().map(|(_, mix, _)| mix.clone()).collect(),
                None => Vec::new(),
            },
            ..GenerateOptions::default()
        };
        let prompts: Vec<Vec<u32>> = asked.iter().map(|(tokens, _, _)| tokens.clone()).collect();
        let answers = loaded.model.generate(&prompts, &options, on_token)?;
        let reply = |answer: &decoder::Generated| {
            Ok(Reply {
                text: loaded.tokenizer.decode(&answer.tokens)?.trim().to_owned(),
                tokens: answer.tokens.len(),
                attempts: 1,
            })
        };
        answers.iter().map(reply).collect()
    }
}

impl Backend for LocalAgents {
    fn respond(&mut self, requests: &[Request]) -> Vec<Result<Reply, Failure>> {
        let mut answers: Vec<Result<Reply, Failure>> = Vec::with_capacity(requests.len());
        let mut batches: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut asked: Vec<Option<(Vec<u32>, AdapterRouting, &Request)>> = Vec::with_capacity(requests.len());
        for (position, request) in requests.iter().enumerate() {
            answers.push(Err(Failure::Empty));
            let prompt = self
                .of(&request.agent)
                .and_then(|(idx, mix)| Ok((idx, mix, self.prompt(idx, request)?)));
            let (idx, mix, tokens) = match prompt {
                Ok(prompt) => prompt,
                Err(failure) => {
                    answers[position] = Err(failure);
                    asked.push(None);
                    continue;
                }
            };
            let alike = |member: &usize| {
                let other = &requests[*member];
                (other.temperature, other.max_tokens) == (request.temperature, request.max_tokens)
            };
            match batches
                .iter_mut()
                .find(|(model, members)| *model == idx && members.iter().all(alike))
            {
                Some((_, members)) => members.push(position),
                None => batches.push((idx, vec![position])),
            }
            asked.push(Some((tokens, mix, request)));
        }
        for (idx, members) in batches {
            let batch: Vec<_> = members.iter().filter_map(|position| asked[*position].clone()).collect();
            match self.batch(idx, &batch, &mut |_, _| ()) {
                Ok(replies) => members
                    .iter()
                    .zip(replies)
                    .for_each(|(position, reply)| answers[*position] = Ok(reply)),
                Err(error) => members
                    .iter()
                    .for_each(|position| answers[*position] = Err(local(&error))),
            }
        }
        answers
    }

    fn stream(&mut self, request: &Request, on_text: &mut dyn FnMut(&str)) -> Result<Reply, Failure> {
        let (idx, mix) = self.of(&request.agent)?;
        let tokens = self.prompt(idx, request)?;
        let mut text = self.models[idx].tokenizer.stream();
        let mut on_token = |_: usize, token: u32| {
            if let Ok(piece) = text.push(token) {
                on_text(&piece);
            }
        };
        let replies = self
            .batch(idx, &[(tokens, mix, request)], &mut on_token)
            .map_err(|error| local(&error))?;
        if let Ok(rest) = text.finish() {
            on_text(&rest);
        }
        replies.into_iter().next().ok_or(Failure::Empty)
    }

    fn count_tokens(&self, agent: &str, text: &str) -> usize {
        let loaded = self.agents.get(agent).map(|(idx, _)| &self.models[*idx]);
        let counted = loaded.and_then(|loaded| loaded.tokenizer.encode(text).ok());
        counted.map_or_else(|| text.len().div_ceil(4), |tokens| tokens.len())
    }
}

fn local(error: &dyn std::fmt::Display) -> Failure {
    Failure::Local(format!("{error:#}"))
}
