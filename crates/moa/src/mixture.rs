//! The run: layer by layer, each agent reads what the layer before it wrote, and the aggregator has the last word.
//!
//! `y_i = ⊕_j A_{i,j}(x_i) + x_1`, `x_{i+1} = y_i`: the answers of a layer, put into the next one's instructions, beside
//! the user's own words. A layer's agents are asked at the same time; one that fails is left out.
//!
//! Source: Wang et al. 2024, arXiv:2406.04692, eq. 1, where `x_1` is the user's prompt in every layer.

use std::time::Instant;

use crate::prompt::{RANKING, SYNTHESIS, cut, ranked, with_references};
use crate::{
    Aggregation, Backend, Call, Endpoints, Error, Failure, Message, MoaConfig, Outcome, Reply, Request, Result,
};

/// A mixture that answers.
pub struct Mixture<'a> {
    config: MoaConfig,
    endpoints: Endpoints,
    local: &'a mut dyn Backend,
}

/// Who hears of a run as it goes.
pub trait Listener {
    /// A call has ended.
    fn on_call(&mut self, call: &Call) {
        let _ = call;
    }

    /// A piece of the aggregator's answer.
    fn on_text(&mut self, text: &str) {
        let _ = text;
    }
}

/// Nobody listens.
impl Listener for () {}

/// Where a call stands in the run.
#[derive(Clone, Copy)]
struct Place {
    layer: usize,
    position: usize,
}

/// What an agent reads of the layer before.
struct Read {
    references: Vec<String>,
    cut: Vec<bool>,
}

impl<'a> Mixture<'a> {
    /// Of a configuration; agents without an endpoint are answered for by `local`.
    ///
    /// Errors: [`MoaConfig::check`]'s.
    pub fn new(config: MoaConfig, endpoints: Endpoints, local: &'a mut dyn Backend) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            endpoints,
            local,
        })
    }

    /// Answers a conversation that ends with the user's turn.
    ///
    /// Errors: the aggregator's failure; what it would have read was told to the listener.
    pub fn respond(&mut self, conversation: &[Message], listener: &mut dyn Listener) -> Result<Outcome> {
        let mut calls = Vec::new();
        let mut references: Vec<String> = Vec::new();
        let layers = self.config.proposers();
        let mut left = Budget::of(&self.config);
        for (layer, agents) in layers.iter().enumerate() {
            let answered = self.layer(layer, agents, conversation, &references, &mut left);
            references = answered.iter().filter_map(|call| call.text.clone()).collect();
            for call in answered {
                listener.on_call(&call);
                calls.push(call);
            }
        }
        let last = self.aggregate(layers.len(), conversation, &references, &mut left, listener)?;
        let (call, text) = last;
        listener.on_call(&call);
        calls.push(call);
        Ok(Outcome { text, calls })
    }

    fn layer(
        &mut self,
        layer: usize,
        agents: &[String],
        conversation: &[Message],
        references: &[String],
        left: &mut Budget,
    ) -> Vec<Call> {
        let share = left.share(agents.len());
        let mut calls: Vec<Call> = Vec::with_capacity(agents.len());
        let mut asked: Vec<(usize, Request)> = Vec::new();
        for (position, agent) in agents.iter().enumerate() {
            let read = self.read(agent, references);
            let place = Place { layer, position };
            let request = self.request(agent, place, conversation, &read.references, SYNTHESIS);
            let call = Call::of(place.layer, &request, &read.cut);
            match left.limited(&request, share) {
                Ok(request) => {
                    calls.push(call);
                    asked.push((position, request));
                }
                Err(failure) => calls.push(call.ended(&Err(failure), 0.0)),
            }
        }
        for (position, answer, seconds) in self.ask(&asked) {
            if let Ok(reply) = &answer {
                left.spend(reply.tokens);
            }
            let call = calls[position].clone();
            calls[position] = call.ended(&answer, seconds);
        }
        calls
    }

    /// Remote agents in threads of their own, while the local ones are answered for here.
    fn ask(&mut self, asked: &[(usize, Request)]) -> Vec<(usize, Result<Reply, Failure>, f64)> {
        let (remote, here): (Vec<&(usize, Request)>, Vec<_>) = asked
            .iter()
            .partition(|(_, request)| self.endpoints.has(&request.agent));
        let requests = |of: &[&(usize, Request)]| of.iter().map(|(_, request)| request.clone()).collect::<Vec<_>>();
        let (remote_requests, here_requests) = (requests(&remote), requests(&here));
        let (endpoints, local) = (&mut self.endpoints, &mut *self.local);
        let begun = Instant::now();
        let (far, near) = std::thread::scope(|scope| {
            let far = scope.spawn(|| {
                let answers = endpoints.respond(&remote_requests);
                (answers, begun.elapsed().as_secs_f64())
            });
            let near = match here_requests.is_empty() {
                true => Vec::new(),
                false => local.respond(&here_requests),
            };
            let near = (near, begun.elapsed().as_secs_f64());
            let ended = |_| {
                (
                    vec![Err(Failure::Local("the endpoints' thread ended early".into())); remote.len()],
                    0.0,
                )
            };
            (far.join().unwrap_or_else(ended), near)
        });
        let placed = |of: Vec<&(usize, Request)>, (answers, seconds): (Vec<Result<Reply, Failure>>, f64)| {
            let missing = std::iter::repeat_with(|| Err(Failure::Empty));
            let answers = answers.into_iter().chain(missing);
            of.into_iter()
                .zip(answers)
                .map(|((position, _), answer)| (*position, checked(answer), seconds))
                .collect::<Vec<_>>()
        };
        let mut all = placed(remote, far);
        all.extend(placed(here, near));
        all
    }

    fn aggregate(
        &mut self,
        layer: usize,
        conversation: &[Message],
        references: &[String],
        left: &mut Budget,
        listener: &mut dyn Listener,
    ) -> Result<(Call, String)> {
        let agent = self.config.aggregator.clone();
        let failed = |failure| Error::Aggregator {
            agent: agent.clone(),
            failure,
        };
        let ranks = self.config.aggregation == Aggregation::Rank && references.len() > 1;
        let instruction = if ranks { RANKING } else { SYNTHESIS };
        let read = self.read(&agent, references);
        let place = Place { layer, position: 0 };
        let request = self.request(&agent, place, conversation, &read.references, instruction);
        let call = Call::of(layer, &request, &read.cut);
        let request = left.last(&request).map_err(failed)?;
        let begun = Instant::now();
        let mut on_text = |text: &str| {
            if !ranks {
                listener.on_text(text);
            }
        };
        let answer = match self.endpoints.has(&agent) {
            true => self.endpoints.stream(&request, &mut on_text),
            false => self.local.stream(&request, &mut on_text),
        };
        let answer = checked(answer);
        let call = call.ended(&answer, begun.elapsed().as_secs_f64());
        let reply = match answer {
            Ok(reply) => reply,
            Err(failure) => {
                listener.on_call(&call);
                return Err(failed(failure));
            }
        };
        if !ranks {
            // One answer to rank is the best of one.
            return Ok((call, reply.text));
        }
        // A ranker that names none has not objected to the first.
        let choice = ranked(&reply.text, references.len());
        let text = references[choice.unwrap_or(0)].clone();
        listener.on_text(&text);
        Ok((call.choosing(choice), text))
    }

    /// What `agent` reads of the layer before, within the budget of references.
    fn read(&self, agent: &str, references: &[String]) -> Read {
        let Some(most) = self.config.max_reference_tokens else {
            return Read {
                references: references.to_vec(),
                cut: vec![false; references.len()],
            };
        };
        let count = |text: &str| match self.endpoints.has(agent) {
            true => self.endpoints.count_tokens(agent, text),
            false => self.local.count_tokens(agent, text),
        };
        let (references, cut) = cut(references, most, count);
        Read { references, cut }
    }

    fn request(
        &self,
        agent: &str,
        place: Place,
        conversation: &[Message],
        references: &[String],
        instruction: &str,
    ) -> Request {
        let config = &self.config;
        let own = &config.agents[agent];
        let mut conversation = conversation.to_vec();
        if let Some(system) = &own.system {
            match conversation.first_mut() {
                Some(first) if first.role == "system" => first.content = format!("{system}\n\n{}", first.content),
                _ => conversation.insert(0, Message::new("system", system.clone())),
            }
        }
        let instruction = match &config.synthesis_prompt {
            Some(own) if instruction == SYNTHESIS => own,
            _ => instruction,
        };
        Request {
            agent: agent.to_owned(),
            messages: with_references(&conversation, instruction, references),
            max_tokens: own.max_tokens.unwrap_or(config.max_tokens),
            temperature: own.temperature.unwrap_or(config.temperature),
            seed: seed(config.seed, place),
        }
    }
}

/// Another stream of random numbers for each place, the same in every run.
fn seed(seed: u64, place: Place) -> u64 {
    // The finaliser of SplitMix64.
    let mut z = seed
        .wrapping_add(1 + place.layer as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(place.position as u64);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // JSON's numbers are exact below 2^53.
    (z ^ (z >> 31)) >> 11
}

fn checked(answer: Result<Reply, Failure>) -> Result<Reply, Failure> {
    match answer {
        Ok(reply) if reply.text.trim().is_empty() => Err(Failure::Empty),
        other => other,
    }
}

/// Tokens that may still be written, by all and by those before the aggregator.
struct Budget {
    /// `token_budget`; none without one.
    whole: Option<usize>,
    left: usize,
    /// Of what is left: the aggregator's.
    kept: usize,
    /// Calls before the aggregator's that have not begun.
    calls: usize,
}

impl Budget {
    fn of(config: &MoaConfig) -> Self {
        let last = config.agents[&config.aggregator]
            .max_tokens
            .unwrap_or(config.max_tokens);
        let whole = config.token_budget.unwrap_or(0);
        Self {
            whole: config.token_budget,
            left: whole,
            // Half at most, so that there is something to aggregate.
            kept: last.min(whole.div_ceil(2)),
            calls: config.num_calls() - 1,
        }
    }

    /// What each of the next `count` calls may write; none for as much as they like.
    fn share(&mut self, count: usize) -> Option<usize> {
        let share = self.left.saturating_sub(self.kept) / self.calls.max(1);
        self.calls = self.calls.saturating_sub(count);
        self.whole.map(|_| share)
    }

    /// The request within its share.
    fn limited(&self, request: &Request, share: Option<usize>) -> Result<Request, Failure> {
        match (share, self.whole) {
            (Some(0), Some(budget)) => Err(Failure::Budget { budget }),
            (Some(share), _) => Ok(Request {
                max_tokens: request.max_tokens.min(share),
                ..request.clone()
            }),
            _ => Ok(request.clone()),
        }
    }

    /// The aggregator may write whatever is left.
    fn last(&self, request: &Request) -> Result<Request, Failure> {
        self.limited(request, self.whole.map(|_| self.left))
    }

    fn spend(&mut self, tokens: usize) {
        self.left = self.left.saturating_sub(tokens);
    }
}
