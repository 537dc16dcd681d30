//! Agents behind OpenAI's chat protocol: asked at the same time, each with a timeout, again after a pause that doubles.
//!
//! What is tried again: no connection, no answer in time, status 408, 409, 429 and 5xx, and an answer that is no chat
//! completion. A pause that the other side asks for (`Retry-After`) is kept, up to the longest of our own.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{AgentConfig, Backend, Failure, MoaConfig, Reply, Request};

/// The longest pause is so many times the first.
const LONGEST_PAUSE: u32 = 32;

/// All endpoints of a mixture.
#[derive(Debug)]
pub struct Endpoints {
    agents: BTreeMap<String, Endpoint>,
}

/// One endpoint.
#[derive(Debug)]
struct Endpoint {
    url: String,
    model: String,
    key: Option<String>,
    client: ureq::Agent,
    timeout: Duration,
    retries: usize,
    backoff: Duration,
}

impl Endpoints {
    /// Those of a configuration; keys are read from the environment by `key`.
    pub fn of(config: &MoaConfig, key: impl Fn(&str) -> Option<String>) -> Self {
        let agents = config.agents.iter().filter_map(|(name, agent)| {
            let url = agent.endpoint.as_ref()?;
            Some((name.clone(), Endpoint::new(url, agent, &key)))
        });
        Self {
            agents: agents.collect(),
        }
    }

    /// Whether `agent` is one of them.
    pub fn has(&self, agent: &str) -> bool {
        self.agents.contains_key(agent)
    }

    fn of_request(&self, request: &Request) -> Result<&Endpoint, Failure> {
        let found = self.agents.get(&request.agent);
        found.ok_or_else(|| Failure::Local(format!("`{}` has no endpoint", request.agent)))
    }
}

impl Backend for Endpoints {
    fn respond(&mut self, requests: &[Request]) -> Vec<Result<Reply, Failure>> {
        let this = &*self;
        std::thread::scope(|scope| {
            let asked: Vec<_> = requests
                .iter()
                .map(|request| scope.spawn(move || this.of_request(request)?.ask(request)))
                .collect();
            let joined = asked.into_iter().map(|asked| {
                let crashed = |_| Err(Failure::Local("the request's thread ended early".into()));
                asked.join().unwrap_or_else(crashed)
            });
            joined.collect()
        })
    }

    fn stream(&mut self, request: &Request, on_text: &mut dyn FnMut(&str)) -> Result<Reply, Failure> {
        self.of_request(request)?.stream(request, on_text)
    }
}

impl Endpoint {
    fn new(url: &str, agent: &AgentConfig, key: impl Fn(&str) -> Option<String>) -> Self {
        let timeout = Duration::from_secs_f64(agent.timeout_seconds);
        Self {
            url: format!("{}/chat/completions", url.trim_end_matches('/')),
            model: agent.model.clone(),
            key: agent.api_key_env.as_deref().and_then(key),
            client: ureq::AgentBuilder::new().timeout(timeout).build(),
            timeout,
            retries: agent.max_retries,
            backoff: Duration::from_secs_f64(agent.backoff_seconds),
        }
    }

    fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        self.trying(|attempts| {
            let answer = self.call(request, false, attempts)?;
            let text = answer.into_string().map_err(|error| self.not_read(&error, attempts))?;
            let garbage = |found: &str| {
                Again::after(Failure::Garbage {
                    found: shown(found),
                    attempts,
                })
            };
            let value: Value = serde_json::from_str(&text).map_err(|_| garbage(&text))?;
            let content = value.pointer("/choices/0/message/content").and_then(Value::as_str);
            let content = content.ok_or_else(|| garbage(&text))?.trim().to_owned();
            if content.is_empty() {
                return Err(Again::never(Failure::Empty));
            }
            let counted = value.pointer("/usage/completion_tokens").and_then(Value::as_u64);
            Ok(Reply {
                tokens: counted.map_or_else(|| content.len().div_ceil(4), |count| count as usize),
                text: content,
                attempts,
            })
        })
    }

    /// Text as it comes; once some has come, nothing is tried again.
    fn stream(&self, request: &Request, on_text: &mut dyn FnMut(&str)) -> Result<Reply, Failure> {
        self.trying(|attempts| {
            let answer = self.call(request, true, attempts)?;
            let (mut text, mut tokens) = (String::new(), None);
            let settled = |failure, text: &str| match text.is_empty() {
                true => Again::after(failure),
                false => Again::never(failure),
            };
            for line in BufReader::new(answer.into_reader()).lines() {
                let line = line.map_err(|error| match text.is_empty() {
                    true => self.not_read(&error, attempts),
                    false => Again::never(self.not_read(&error, attempts).failure),
                })?;
                let Some(data) = line.strip_prefix("data:").map(str::trim) else {
                    match line.trim() {
                        "" => continue,
                        // A comment that keeps the line open, or another field of an event.
                        other if other.starts_with(':') || other.starts_with("event:") || other.starts_with("id:") => {
                            continue;
                        }
                        other => {
                            let found = shown(other);
                            return Err(settled(Failure::Garbage { found, attempts }, &text));
                        }
                    }
                };
                if data == "[DONE]" {
                    break;
                }
                let Ok(value) = serde_json::from_str::<Value>(data) else {
                    let found = shown(data);
                    return Err(settled(Failure::Garbage { found, attempts }, &text));
                };
                if let Some(piece) = value.pointer("/choices/0/delta/content").and_then(Value::as_str) {
                    on_text(piece);
                    text.push_str(piece);
                }
                let counted = value.pointer("/usage/completion_tokens").and_then(Value::as_u64);
                tokens = counted.map(|count| count as usize).or(tokens);
            }
            if text.trim().is_empty() {
                return Err(Again::never(Failure::Empty));
            }
            Ok(Reply {
                tokens: tokens.unwrap_or_else(|| text.len().div_ceil(4)),
                text: text.trim().to_owned(),
                attempts,
            })
        })
    }

    fn call(&self, request: &Request, streams: bool, attempts: usize) -> Result<ureq::Response, Again> {
        let body = json!({
            "model": self.model,
            "messages": request.messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stream": streams,
        });
        let mut call = self.client.post(&self.url).set("content-type", "application/json");
        if let Some(key) = &self.key {
            call = call.set("authorization", &format!("Bearer {key}"));
        }
        match call.send_string(&body.to_string()) {
            Ok(answer) => Ok(answer),
            Err(ureq::Error::Status(status, answer)) => {
                let pause = answer.header("retry-after").and_then(|after| after.parse::<f64>().ok());
                let message = shown(&answer.into_string().unwrap_or_default());
                let failure = Failure::Status {
                    status,
                    message,
                    attempts,
                };
                Err(match status {
                    408 | 409 | 429 | 500..=599 => Again {
                        failure,
                        is_worth_it: true,
                        // A pause that is no time is none.
                        pause: pause.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
                    },
                    _ => Again::never(failure),
                })
            }
            Err(ureq::Error::Transport(error)) => Err(Again::after(self.not_reached(&error.to_string(), attempts))),
        }
    }

    fn not_read(&self, error: &std::io::Error, attempts: usize) -> Again {
        Again::after(self.not_reached(&error.to_string(), attempts))
    }

    fn not_reached(&self, message: &str, attempts: usize) -> Failure {
        match message.contains("timed out") {
            true => Failure::Timeout {
                seconds: self.timeout.as_secs_f64().to_string(),
                attempts,
            },
            false => Failure::Unreachable {
                message: shown(message),
                attempts,
            },
        }
    }

    fn trying(&self, mut attempt: impl FnMut(usize) -> Result<Reply, Again>) -> Result<Reply, Failure> {
        let mut pause = self.backoff;
        let longest = self.backoff * LONGEST_PAUSE;
        for attempts in 1.. {
            let again = match attempt(attempts) {
                Ok(reply) => return Ok(reply),
                Err(again) => again,
            };
            if !again.is_worth_it || attempts > self.retries {
                return Err(again.failure);
            }
            std::thread::sleep(again.pause.unwrap_or(pause).min(longest));
            pause = (pause * 2).min(longest);
        }
        Err(Failure::Empty)
    }
}

/// A failed attempt.
struct Again {
    failure: Failure,
    is_worth_it: bool,
    pause: Option<Duration>,
}

impl Again {
    fn after(failure: Failure) -> Self {
        Self {
            failure,
            is_worth_it: true,
            pause: None,
        }
    }

    fn never(failure: Failure) -> Self {
        Self {
            is_worth_it: false,
            ..Self::after(failure)
        }
    }
}

/// The beginning of what came, on one line.
fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((end, _)) => format!("`{}…`", &line[..end]),
        None => format!("`{line}`"),
    }
}
