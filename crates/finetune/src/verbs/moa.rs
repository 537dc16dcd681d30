//! `finetune moa`: several models answer, read each other's answers, and one has the last word.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use data::{Dataset, ReadConfig};
use moa::{Call, Endpoints, Listener, Message, Mixture, MoaConfig, Outcome, copied, distinct, roles};
use models::prompts;
use serde_json::{Value, json};
use session::agents::LocalAgents;

use crate::args::MachineArgs;
use crate::output;

/// Arguments of `moa`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "An agent is a local model with, perhaps, an adapter (agents of one model share it and are answered for together), or\n\
                  an endpoint that speaks OpenAI's protocol. An agent that fails is left out, and stderr tells so.\n\n\
                  A configuration:\n  aggregator = \"writer\"\n  layers = [[\"law\", \"code\"]]\n  token_budget = 4000\n  \
                  [agents.law]\n  model = \"smollm2-135m-instruct\"\n  adapter = \"runs/law\"\n  \
                  [agents.code]\n  model = \"smollm2-135m-instruct\"\n  adapter = \"runs/code\"\n  \
                  [agents.writer]\n  endpoint = \"http://localhost:8000/v1\"\n  model = \"qwen\"\n\n\
                  Example:\n  finetune moa --config agents.toml --prompt \"What is a crow?\" --transcript said.jsonl"
)]
pub struct Args {
    /// The agents and their layers, a TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The question
    #[arg(long, value_name = "TEXT", required_unless_present = "data", conflicts_with = "data")]
    prompt: Option<String>,
    /// A file of rows to answer, each as a line of JSON that also tells how much the last layer's answers differ and how
    /// much of them the final answer copies
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Instead of answering: measure each agent in three roles (alone, as the only proposer, as the aggregator of all
    /// agents) on rows that have answers; the score is the F1 of an answer's words
    #[arg(long, requires = "data")]
    roles: bool,
    /// Where every call is written as a line of JSON; a file that is there is not replaced
    #[arg(long, value_name = "FILE")]
    transcript: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Loads, asks, writes.
    pub fn run(self) -> Result<ExitCode> {
        let config = read(&self.config)?;
        let rows = self
            .data
            .as_deref()
            .map(|path| models::datafile::read(path, &ReadConfig::default(), &output::events()))
            .transpose()?;
        let transcript = self.transcript.as_deref().map(create).transpose()?;
        let mut local = LocalAgents::load(&config, &|| self.machine.start(), &output::events())?;
        if let (true, Some(rows)) = (self.roles, &rows) {
            let mut heard = Heard {
                transcript,
                run: 0,
                streams: false,
                failed: None,
            };
            return self.measure_roles(&config, rows, &mut local, &mut heard);
        }
        let endpoints = Endpoints::of(&config, |name| std::env::var(name).ok());
        let layers = config.proposers().len();
        let mut mixture = Mixture::new(config, endpoints, &mut local)?;
        let streams = rows.is_none() && !self.json;
        let mut heard = Heard {
            transcript,
            run: 0,
            streams,
            failed: None,
        };
        let questions: Vec<String> = match &rows {
            Some(rows) => (0..rows.len()).map(|idx| rows.row(idx).input()).collect(),
            None => vec![self.prompt.clone().unwrap_or_default()],
        };
        for (run, question) in questions.into_iter().enumerate() {
            heard.run = run;
            let outcome = mixture.respond(&[Message::new("user", question.as_str())], &mut heard);
            if let Some(error) = heard.failed.take() {
                return Err(error);
            }
            let outcome = outcome?;
            if streams {
                output::line("")?;
            } else {
                output::json(&told(&question, &outcome, layers))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Args {
    /// Every agent in every role, on rows that say what is right.
    fn measure_roles(
        &self,
        config: &MoaConfig,
        rows: &Dataset,
        local: &mut LocalAgents,
        heard: &mut Heard,
    ) -> Result<ExitCode> {
        let mut asked = Vec::with_capacity(rows.len());
        for idx in 0..rows.len() {
            let row = rows.row(idx);
            let Some(answer) = prompts::answer(row) else {
                bail!(
                    "{}: `--roles` wants rows with an answer, found none\nhint: give rows `prompt`, `completion`, or conversations that end with the assistant's turn",
                    rows.place(idx)
                );
            };
            asked.push((row.input(), answer));
        }
        let work = output::events().begin("roles", 3 * config.agents.len() * asked.len());
        let mut respond = |config: &MoaConfig, idx: usize| {
            heard.run = idx;
            let endpoints = Endpoints::of(config, |name| std::env::var(name).ok());
            let mut mixture = Mixture::new(config.clone(), endpoints, local)?;
            let outcome = mixture.respond(&[Message::new("user", asked[idx].0.as_str())], heard);
            work.advance(1);
            outcome
        };
        let score = |idx: usize, text: &str| evaluate::word_f1(&asked[idx].1, text);
        let found = roles(config, asked.len(), &mut respond, &score)?;
        drop(work);
        if let Some(error) = heard.failed.take() {
            return Err(error);
        }
        if self.json {
            output::json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let width = found
            .agents
            .keys()
            .map(|name| name.chars().count())
            .max()
            .unwrap_or(0)
            .max(5);
        output::line(format!(
            "{:width$}  {:>8}  {:>8}  {:>10}",
            "agent", "alone", "proposer", "aggregator"
        ))?;
        for (name, worth) in &found.agents {
            let share = |value: f64| format!("{:.1} %", 100.0 * value);
            output::line(format!(
                "{name:width$}  {:>8}  {:>8}  {:>10}",
                share(worth.alone),
                share(worth.proposer),
                share(worth.aggregator)
            ))?;
        }
        output::line(format!(
            "different word pairs in all answers to a question: {:.1} %; calls that failed: {}",
            100.0 * found.distinct_2,
            found.failures
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path) -> Result<MoaConfig> {
    let place = || format!("`{}`", path.display());
    let text = std::fs::read_to_string(path).with_context(place)?;
    let config: MoaConfig = toml::from_str(&text).with_context(place)?;
    config.check().with_context(place)?;
    Ok(config)
}

fn create(path: &Path) -> Result<File> {
    File::create_new(path).with_context(|| format!("transcript `{}`", path.display()))
}

/// Writes the transcript, streams the answer, says who was left out.
struct Heard {
    transcript: Option<File>,
    run: usize,
    streams: bool,
    failed: Option<anyhow::Error>,
}

impl Listener for Heard {
    fn on_call(&mut self, call: &Call) {
        if let Some(failure) = &call.failure {
            output::note(format!("layer {}: `{}` is left out: {failure}", call.layer, call.agent));
        }
        let Some(file) = &mut self.transcript else { return };
        let mut line = json!(call);
        line["run"] = json!(self.run);
        let written = writeln!(file, "{line}");
        self.failed = self.failed.take().or(written.err().map(Into::into));
    }

    fn on_text(&mut self, text: &str) {
        if self.streams {
            let shown = output::piece(text);
            self.failed = self.failed.take().or(shown.err());
        }
    }
}

/// The answer, what it cost, and its relation to what its writer had read.
fn told(question: &str, outcome: &Outcome, layers: usize) -> Value {
    let read: Vec<&Call> = outcome
        .calls
        .iter()
        .filter(|call| call.layer + 1 == layers && call.text.is_some())
        .collect();
    let texts: Vec<&str> = read.iter().filter_map(|call| call.text.as_deref()).collect();
    let mut taken: BTreeMap<&str, f64> = BTreeMap::new();
    for (call, text) in read.iter().zip(&texts) {
        let share = copied(&outcome.text, text, 2);
        let most = taken.entry(&call.agent).or_default();
        *most = most.max(share);
    }
    let failures: Vec<Value> = outcome
        .failures()
        .map(|call| json!({"layer": call.layer, "agent": call.agent, "failure": call.failure}))
        .collect();
    json!({
        "prompt": question,
        "text": outcome.text,
        "calls": outcome.calls.len(),
        "tokens": outcome.tokens(),
        "failures": failures,
        "distinct_2": distinct(&texts, 2),
        "copied_2": taken,
    })
}
