//! `finetune generate`: text after a prompt, or after each row of a file.

mod sampling;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use data::Dataset;
use decoder::{GenerateOptions, HeadKind, Stop};
use models::prompts::{self, Asked, Form, Length};
pub use sampling::SamplingArgs;
use serde_json::{Value, json};
use session::Loaded;
use session::adapters;

use super::classify;
use crate::args::FormArgs;
use crate::args::ModelArgs;
use crate::output;

/// Arguments of `generate`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A prompt is the user's turn of a chat where the model has a chat template; --no-chat continues the text as it stands.\n\
                  Each row of --data becomes a line of JSON: `index` (from 0), `prompt`, `text`, `tokens`, `stopped` (eos: the model\n\
                  ended its answer; length: --max-new-tokens; context: the model's last position), the row's own answer as\n\
                  `reference`, and `adapter` where rows choose their adapters. How many tokens a second were generated is told on\n\
                  stderr. A classifier labels the text or the rows instead, as `finetune classify --json` does.\n\n\
                  Example:\n  finetune generate --model smollm2-135m-instruct --prompt \"What is the capital of France?\"\n  \
                  finetune generate --model smollm2-135m-instruct --data questions.jsonl --temperature 0.7 > answers.jsonl"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to answer
    #[arg(long, value_name = "TEXT", required_unless_present = "data", conflicts_with = "data")]
    prompt: Option<String>,
    /// A file of rows to answer, each as a line of JSON
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    form: FormArgs,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Loads, reads the prompts, writes.
    pub fn run(self) -> Result<ExitCode> {
        let options = self.sampling.options()?;
        let rows = self
            .data
            .as_deref()
            .map(|path| models::datafile::read(path, &self.model.reading(), &output::events()))
            .transpose()?;
        let loaded = self.model.load(&output::events())?;
        if *loaded.model.head_kind() != HeadKind::LanguageModel {
            self.label(&loaded, rows.as_ref())?;
            return Ok(ExitCode::SUCCESS);
        }
        match (rows, &self.prompt) {
            (Some(rows), _) => {
                let form = self
                    .form
                    .choice()
                    .choose_for(&rows, &loaded.source, &loaded.tokenizer)?;
                answer_rows(&loaded, &rows, form, &options)?;
            }
            (None, prompt) => {
                adapters::tell_first(
                    loaded.adapters.as_ref(),
                    &self.model.adapter,
                    "`--prompt`",
                    loaded.source.events(),
                );
                let form = self.form.choice().choose(&loaded.source, &loaded.tokenizer)?;
                let asked = prompts::of_text(prompt.as_deref().unwrap_or_default(), form, &loaded.tokenizer)?;
                if self.json {
                    answer_json(&loaded, &asked, &options)?;
                } else {
                    answer_streaming(&loaded, &asked, &options)?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What a model with another head says of the prompt or of each row.
    fn label(&self, loaded: &Loaded, rows: Option<&Dataset>) -> Result<()> {
        let form = if self.json {
            classify::Form::Json
        } else {
            classify::Form::Text
        };
        match rows {
            Some(rows) => classify::label_rows(loaded, rows, classify::Form::Json),
            None => classify::label_text(loaded, self.prompt.clone().unwrap_or_default(), form),
        }
    }
}

/// Tells how fast tokens came, for people.
fn tell_speed(tokens: usize, time: Duration) {
    let seconds = time.as_secs_f64();
    let speed = tokens as f64 / seconds.max(1e-9);
    output::note(format!(
        "{tokens} {} in {}: {speed:.1} tokens/s",
        if tokens == 1 { "token" } else { "tokens" },
        output::seconds(seconds)
    ));
}

fn answer_streaming(loaded: &Loaded, asked: &Asked, options: &GenerateOptions) -> Result<()> {
    let mut stream = loaded.tokenizer.stream();
    let mut failed = None;
    let begun = Instant::now();
    let answers = loaded
        .model
        .generate(std::slice::from_ref(&asked.tokens), options, &mut |_, token| {
            let shown = stream
                .push(token)
                .map_err(Into::into)
                .and_then(|text| output::piece(&text));
            failed = failed.take().or(shown.err());
        })?;
    if let Some(error) = failed {
        return Err(error);
    }
    output::line(stream.finish()?)?;
    tell_speed(answers.iter().map(|answer| answer.tokens.len()).sum(), begun.elapsed());
    if answers.iter().any(|answer| answer.stopped == Stop::Context) {
        output::note(format!(
            "the answer ends at the last of the model's {} positions",
            loaded.model.max_positions()
        ));
    }
    Ok(())
}

fn answer_json(loaded: &Loaded, asked: &Asked, options: &GenerateOptions) -> Result<()> {
    let begun = Instant::now();
    let answers = loaded
        .model
        .generate(std::slice::from_ref(&asked.tokens), options, &mut |_, _| ())?;
    let time = begun.elapsed();
    for answer in &answers {
        output::json(&json_of(asked, &loaded.tokenizer.decode(&answer.tokens)?, answer))?;
    }
    tell_speed(answers.iter().map(|answer| answer.tokens.len()).sum(), time);
    Ok(())
}

/// Rows to read before the next lot of answers is written.
const LOT: usize = 64;

fn answer_rows(loaded: &Loaded, rows: &Dataset, form: Form, options: &GenerateOptions) -> Result<()> {
    // What cannot be answered is refused before anything is.
    let mut lengths = Length::room_for_an_answer(loaded.model.max_positions());
    for idx in 0..rows.len() {
        let place = || rows.place(idx).to_string();
        let asked = prompts::of_row(rows.row(idx), form, &loaded.tokenizer).with_context(place)?;
        lengths.take(&place(), asked.tokens.len());
    }
    lengths.check(rows.len())?;
    let work = output::events().begin("rows", rows.len());
    let (mut tokens, mut time) = (0, Duration::ZERO);
    for start in (0..rows.len()).step_by(LOT) {
        let lot: Vec<Asked> = (start..rows.len().min(start + LOT))
            .map(|idx| {
                prompts::of_row(rows.row(idx), form, &loaded.tokenizer).with_context(|| rows.place(idx).to_string())
            })
            .collect::<Result<_>>()?;
        let prompts: Vec<Vec<u32>> = lot.iter().map(|asked| asked.tokens.clone()).collect();
        let mixes = (start..start + lot.len()).map(|idx| {
            let mix = loaded.mix(rows, idx);
            mix.with_context(|| rows.place(idx).to_string())
        });
        let options = GenerateOptions {
            mixes: mixes.filter_map(Result::transpose).collect::<Result<_>>()?,
            ..options.clone()
        };
        let begun = Instant::now();
        let answers = loaded
            .model
            .generate(&prompts, &options, &mut |_, _| ())
            .with_context(|| format!("{} and the rows after it", rows.place(start)))?;
        time += begun.elapsed();
        for (idx, (asked, answer)) in (start..).zip(lot.iter().zip(&answers)) {
            let mut object = json!({ "index": idx });
            if loaded.adapters.is_some() {
                object["adapter"] = json!(rows.kept(idx, adapters::COLUMN));
            }
            let said = json_of(asked, &loaded.tokenizer.decode(&answer.tokens)?, answer);
            if let (Value::Object(object), Value::Object(said)) = (&mut object, said) {
                object.extend(said);
            }
            output::json(&object)?;
            tokens += answer.tokens.len();
        }
        work.advance(lot.len());
    }
    drop(work);
    tell_speed(tokens, time);
    adapters::tell_base(loaded.adapters.as_ref(), rows, loaded.source.events());
    Ok(())
}

fn json_of(asked: &Asked, text: &str, answer: &decoder::Generated) -> Value {
    let stopped = match answer.stopped {
        Stop::Eos => "eos",
        Stop::Length => "length",
        Stop::Interrupted => "interrupted",
        _ => "context",
    };
    let mut object = json!({ "prompt": asked.text, "text": text, "tokens": answer.tokens.len(), "stopped": stopped });
    if let Some(reference) = &asked.reference {
        object["reference"] = json!(reference);
    }
    object
}
