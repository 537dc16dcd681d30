//! The run against stub agents and against a local stub server with failing, slow and garbage endpoints.

mod support;

use std::time::Instant;

use moa::{
    Backend, Call, Endpoints, Error, Failure, Listener, Message, Mixture, MoaConfig, Outcome, Reply, Request, SYNTHESIS,
};
use serde_json::{Value, json};

/// Says who it is and what it has read; agents called `mute` fail.
#[derive(Default)]
struct Stub {
    requests: Vec<Request>,
    batches: Vec<usize>,
}

impl Backend for Stub {
    fn respond(&mut self, requests: &[Request]) -> Vec<Result<Reply, Failure>> {
        self.requests.extend_from_slice(requests);
        self.batches.push(requests.len());
        let answer = |request: &Request| match request.agent.as_str() {
            "mute" => Err(Failure::Local("nothing to say".into())),
            agent => Ok(Reply {
                text: format!("{agent}:{}", request.seed % 1000),
                tokens: 10.min(request.max_tokens),
                attempts: 1,
            }),
        };
        requests.iter().map(answer).collect()
    }

    fn count_tokens(&self, _agent: &str, text: &str) -> usize {
        text.split_whitespace().count()
    }
}

fn config(value: Value) -> MoaConfig {
    serde_json::from_value(value).expect("a configuration")
}

fn local(names: &[&str], more: &Value) -> MoaConfig {
    let agents: serde_json::Map<String, Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({"model": "m"})))
        .collect();
    let mut whole = json!({"agents": agents});
    for (key, value) in more.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    config(whole)
}

fn run(config: MoaConfig, stub: &mut Stub) -> moa::Result<Outcome> {
    let endpoints = Endpoints::of(&config, |_| None);
    Mixture::new(config, endpoints, stub)?.respond(&[Message::new("user", "What is a crow?")], &mut ())
}

#[test]
fn every_layer_reads_the_one_before_it_and_the_user_s_own_words() {
    let mut stub = Stub::default();
    let layers = json!({"layers": [["a", "b", "c"], ["a", "b", "c"]], "aggregator": "b"});
    let outcome = run(local(&["a", "b", "c"], &layers), &mut stub).expect("an answer");
    // n (L - 1) + 1 calls, a layer a batch.
    assert_eq!(
        (outcome.calls.len(), stub.batches.as_slice()),
        (7, [3, 3, 1].as_slice())
    );
    let user = Message::new("user", "What is a crow?");
    assert!(
        stub.requests[..3]
            .iter()
            .all(|request| request.messages == [user.clone()])
    );
    for (from, request) in [(0, &stub.requests[3]), (0, &stub.requests[5]), (3, &stub.requests[6])] {
        let said: Vec<&str> = outcome.calls[from..from + 3]
            .iter()
            .filter_map(|call| call.text.as_deref())
            .collect();
        let wanted = format!(
            "{SYNTHESIS}\n\nAnswers:\n1. {}\n2. {}\n3. {}",
            said[0], said[1], said[2]
        );
        assert_eq!(request.messages, [Message::new("system", wanted), user.clone()]);
    }
    let agents: Vec<(usize, &str)> = outcome
        .calls
        .iter()
        .map(|call| (call.layer, call.agent.as_str()))
        .collect();
    assert_eq!(
        agents,
        [(0, "a"), (0, "b"), (0, "c"), (1, "a"), (1, "b"), (1, "c"), (2, "b")]
    );
    assert_eq!(Some(&outcome.text), outcome.calls[6].text.as_ref());
}

#[test]
fn no_layer_is_a_plain_call_and_rounds_repeat_the_reference_models() {
    let mut stub = Stub::default();
    let outcome = run(local(&["a"], &json!({"aggregator": "a"})), &mut stub).expect("an answer");
    assert_eq!(outcome.calls.len(), 1);
    assert_eq!(stub.requests[0].messages, [Message::new("user", "What is a crow?")]);
    let rounds = json!({"reference_models": ["a", "b"], "rounds": 3, "aggregator": "a"});
    let mut stub = Stub::default();
    assert_eq!(
        run(local(&["a", "b"], &rounds), &mut stub)
            .expect("an answer")
            .calls
            .len(),
        7
    );
}

#[test]
fn the_same_seed_gives_the_same_run_and_a_name_that_stands_twice_speaks_twice() {
    let config = |seed: u64| {
        local(
            &["a"],
            &json!({"layers": [["a", "a"]], "aggregator": "a", "seed": seed}),
        )
    };
    let texts = |seed: u64| -> Vec<Option<String>> {
        let outcome = run(config(seed), &mut Stub::default()).expect("an answer");
        outcome.calls.into_iter().map(|call| call.text).collect()
    };
    assert_eq!(texts(1), texts(1));
    assert_ne!(texts(1), texts(2));
    assert_ne!(texts(1)[0], texts(1)[1]);
}

#[test]
fn a_failed_agent_is_left_out_and_reported() {
    let mut stub = Stub::default();
    let layers = json!({"layers": [["a", "mute", "b"]], "aggregator": "a"});
    let outcome = run(local(&["a", "b", "mute"], &layers), &mut stub).expect("an answer");
    let read = &stub.requests[3].messages[0].content;
    assert!(
        read.contains("\n1. a:") && read.contains("\n2. b:") && !read.contains("\n3. "),
        "{read}"
    );
    let failures: Vec<(&str, &str)> = outcome
        .failures()
        .map(|call| (call.agent.as_str(), call.failure.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(failures, [("mute", "nothing to say")]);
    // All of a layer failing leaves the user's words alone.
    let mut stub = Stub::default();
    let layers = json!({"layers": [["mute", "mute"]], "aggregator": "a"});
    run(local(&["a", "mute"], &layers), &mut stub).expect("an answer");
    assert_eq!(stub.requests[2].messages, [Message::new("user", "What is a crow?")]);
    let silent = json!({"layers": [["a"]], "aggregator": "mute"});
    let error = run(local(&["a", "mute"], &silent), &mut Stub::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("aggregator `mute`: nothing to say") && error.contains("hint: "),
        "{error}"
    );
}

#[test]
fn budgets_cut_answers_and_references_in_sight() {
    let layers = json!({"layers": [["a", "b"], ["a", "b"]], "aggregator": "a", "max_tokens": 50, "token_budget": 60});
    let mut stub = Stub::default();
    let outcome = run(local(&["a", "b"], &layers), &mut stub).expect("an answer");
    // 30 are kept for the aggregator, so each of four calls has 7.
    let limits: Vec<usize> = stub.requests.iter().map(|request| request.max_tokens).collect();
    assert_eq!(limits, [7, 7, 8, 8, 30]);
    assert!(outcome.tokens() <= 60);
    let tight = json!({"layers": [["a", "b"]], "aggregator": "a", "token_budget": 3});
    let outcome = run(local(&["a", "b"], &tight), &mut Stub::default()).expect("an answer");
    let spent: Vec<&str> = outcome.failures().filter_map(|call| call.failure.as_deref()).collect();
    assert_eq!(spent, ["the budget of 3 tokens is spent"; 2]);
    let references = json!({"layers": [["a", "b"]], "aggregator": "a", "max_reference_tokens": 1});
    let outcome = run(local(&["a", "b"], &references), &mut Stub::default()).expect("an answer");
    assert_eq!(outcome.calls[2].cut_references, [1, 2]);
    assert!(
        outcome.calls[2].messages[0].content.contains("1.  […]"),
        "{}",
        outcome.calls[2].messages[0].content
    );
}

/// Names the second answer.
struct Ranker;

impl Backend for Ranker {
    fn respond(&mut self, requests: &[Request]) -> Vec<Result<Reply, Failure>> {
        let text = |request: &Request| match request.agent.as_str() {
            "judge" => "Number 2 is best.".to_owned(),
            agent => format!("{agent}'s"),
        };
        let reply = |request| Reply {
            text: text(request),
            tokens: 1,
            attempts: 1,
        };
        requests.iter().map(|request| Ok(reply(request))).collect()
    }
}

#[test]
fn a_ranker_s_choice_is_the_answer_as_it_stands() {
    let config = local(
        &["a", "b", "judge"],
        &json!({"layers": [["a", "b"]], "aggregator": "judge", "aggregation": "rank"}),
    );
    let endpoints = Endpoints::of(&config, |_| None);
    let mut ranker = Ranker;
    let outcome = Mixture::new(config, endpoints, &mut ranker)
        .and_then(|mut mixture| mixture.respond(&[Message::new("user", "?")], &mut ()))
        .expect("an answer");
    assert_eq!((outcome.text.as_str(), outcome.calls[2].choice), ("b's", Some(2)));
}

#[derive(Default)]
struct Heard {
    text: Vec<String>,
    calls: Vec<Call>,
}

impl Listener for Heard {
    fn on_call(&mut self, call: &Call) {
        self.calls.push(call.clone());
    }

    fn on_text(&mut self, text: &str) {
        self.text.push(text.to_owned());
    }
}

/// Agents of these models at a stub server, asked once more each.
fn remote(address: &str, models: &[&str], aggregator: &str) -> MoaConfig {
    let agents: serde_json::Map<String, Value> = models
        .iter()
        .map(|model| {
            let agent = json!({
                "model": model, "endpoint": address, "api_key_env": "KEY",
                "timeout_seconds": 0.6, "max_retries": 1, "backoff_seconds": 0.05,
            });
            ((*model).to_owned(), agent)
        })
        .collect();
    let proposers: Vec<&&str> = models.iter().filter(|model| **model != aggregator).collect();
    config(json!({"agents": agents, "layers": [proposers], "aggregator": aggregator}))
}

#[test]
fn failing_slow_and_garbage_endpoints_are_left_out_and_the_rest_goes_on() {
    let (address, seen) = support::serve();
    let models = [
        "good",
        "fine",
        "failing",
        "forbidden",
        "slow",
        "garbage",
        "lying",
        "silent",
        "cut",
        "last",
    ];
    let config = remote(&address, &models, "last");
    let endpoints = Endpoints::of(&config, |name| (name == "KEY").then(|| "secret".to_owned()));
    let (mut stub, mut heard) = (Stub::default(), Heard::default());
    let begun = Instant::now();
    let outcome = Mixture::new(config, endpoints, &mut stub)
        .and_then(|mut mixture| mixture.respond(&[Message::new("user", "Hello?")], &mut heard))
        .expect("an answer");
    // All at the same time: two attempts of the slow one, and not the sum of all.
    assert!(begun.elapsed().as_secs_f64() < 2.9, "{:?}", begun.elapsed());
    assert_eq!(
        (outcome.text.as_str(), heard.text.concat().as_str()),
        ("streamed", "streamed")
    );
    assert_eq!(heard.text.len(), 3, "text is handed out as it comes");
    assert_eq!(heard.calls, outcome.calls);
    let failure = |agent: &str| {
        let call = outcome.calls.iter().find(|call| call.agent == agent).expect("called");
        call.failure.clone().unwrap_or_else(|| panic!("{agent} answered"))
    };
    assert!(
        failure("failing").contains("status 500: `out of order` (2 attempts)"),
        "{}",
        failure("failing")
    );
    assert!(failure("forbidden").contains("status 401") && failure("forbidden").contains("(1 attempts)"));
    assert!(
        failure("slow").contains("no answer within 0.6 s (2 attempts)"),
        "{}",
        failure("slow")
    );
    assert!(
        failure("garbage").contains("wanted a chat completion, found `<html>this"),
        "{}",
        failure("garbage")
    );
    assert!(
        failure("lying").contains("wanted a chat completion"),
        "{}",
        failure("lying")
    );
    assert!(failure("silent").contains("an empty answer"), "{}", failure("silent"));
    assert!(failure("cut").contains("attempts"), "{}", failure("cut"));
    let last = outcome.calls.last().expect("the aggregator's");
    let read = &last.messages[0].content;
    assert!(read.ends_with("Answers:\n1. good says 1\n2. fine says 1"), "{read}");
    assert_eq!((outcome.calls[0].tokens, outcome.calls[0].attempts), (7, 1));
    let seen = seen.lock().expect("not poisoned");
    assert!(
        seen.iter()
            .all(|(path, key, _)| path == "/v1/chat/completions" && key.as_deref() == Some("Bearer secret"))
    );
    let times = |model: &str| seen.iter().filter(|(_, _, body)| body["model"] == model).count();
    assert_eq!(
        (times("good"), times("failing"), times("forbidden"), times("silent")),
        (1, 2, 1, 1)
    );
}

#[test]
fn an_endpoint_that_recovers_is_asked_again() {
    let (address, seen) = support::serve();
    let mut config = remote(&address, &["recovering", "last"], "last");
    if let Some(agent) = config.agents.get_mut("recovering") {
        agent.max_retries = 3;
    }
    let endpoints = Endpoints::of(&config, |_| None);
    let mut stub = Stub::default();
    let outcome = Mixture::new(config, endpoints, &mut stub)
        .and_then(|mut mixture| mixture.respond(&[Message::new("user", "Hello?")], &mut ()))
        .expect("an answer");
    assert_eq!((outcome.failures().count(), outcome.calls[0].attempts), (0, 3));
    assert!(
        seen.lock()
            .expect("not poisoned")
            .iter()
            .all(|(_, key, _)| key.is_none())
    );
}

#[test]
fn nobody_there_is_said_so() {
    let config = remote("http://127.0.0.1:9", &["a", "last"], "last");
    let endpoints = Endpoints::of(&config, |_| None);
    let mut stub = Stub::default();
    let error = Mixture::new(config, endpoints, &mut stub)
        .and_then(|mut mixture| mixture.respond(&[Message::new("user", "Hello?")], &mut ()))
        .unwrap_err();
    assert!(matches!(error, Error::Aggregator { .. }));
    assert!(error.to_string().contains("not reached"), "{error}");
}

#[test]
fn configurations_that_cannot_be_are_refused_by_key() {
    for (value, parts) in [
        (
            json!({"agents": {"a": {"model": "m"}}, "aggregator": "b"}),
            ["`aggregator`", "`b`"],
        ),
        (
            json!({"agents": {"a": {"model": "m"}}, "layers": [["a"], []], "aggregator": "a"}),
            ["`layers.1`", "at least one agent"],
        ),
        (
            json!({"agents": {"a": {"model": "m", "endpoint": "localhost"}}, "aggregator": "a"}),
            ["`agents.a.endpoint`", "http://"],
        ),
        (
            json!({"agents": {"a": {"model": "m", "endpoint": "http://x", "adapter": "y"}}, "aggregator": "a"}),
            ["`agents.a.adapter`", "none beside"],
        ),
        (
            json!({"agents": {"a": {"model": "m"}}, "aggregator": "a", "temperature": -1.0}),
            ["`temperature`", "0 or more"],
        ),
        (
            json!({"agents": {"a": {"model": "m"}}, "layers": [["a"]], "aggregator": "a", "token_budget": 1}),
            ["`token_budget`", "a token a call"],
        ),
        (
            json!({"agents": {"a": {"model": "m"}}, "aggregator": "a", "aggregation": "rank"}),
            ["`aggregation`", "something to rank"],
        ),
    ] {
        let error = config(value).check().unwrap_err().to_string();
        assert!(
            parts.iter().all(|part| error.contains(part)) && error.contains("hint: "),
            "{error}"
        );
    }
    let unknown = serde_json::from_value::<MoaConfig>(json!({"agents": {}, "aggregator": "a", "layer": []}));
    assert!(unknown.unwrap_err().to_string().contains("unknown field `layer`"));
}
