//! `finetune generate`: text after a prompt, or after each row of a file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use data::Dataset;
use decoder::{GenerateOptions, Sampler, Stop};
use serde_json::json;

use crate::model::{Loaded, ModelArgs};
use crate::output;
use crate::prompts::{self, Asked, Form};

/// Arguments of `generate`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  finetune generate --model smollm2-135m-instruct --prompt \"What is the capital of France?\""
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to answer
    #[arg(long, value_name = "TEXT", required_unless_present = "data", conflicts_with = "data")]
    prompt: Option<String>,
    /// A file of rows to answer, each as a line of JSON: `prompt`, `text`, `tokens`, `stopped`, and the row's own `reference`
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Continue the text as it stands: no chat template
    #[arg(long)]
    no_chat: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// How tokens are drawn.
#[derive(clap::Args, Clone, Debug)]
pub struct SamplingArgs {
    /// The most tokens of an answer
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_new_tokens: usize,
    /// What logits are divided by; 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f64,
    /// The smallest set of likeliest tokens with at least this probability stays
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f64,
    /// How many of the likeliest tokens stay; 0 for all
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub top_k: usize,
    /// Tokens with at least this fraction of the likeliest one's probability stay
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub min_p: f64,
    /// What the logits of tokens seen before are divided by
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub repetition_penalty: f64,
    /// Where the random numbers start
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
}

impl SamplingArgs {
    /// As the decoder's options; a wrong value is refused before a model is loaded.
    pub fn options(&self) -> Result<GenerateOptions> {
        let sampler = Sampler {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        sampler.check()?;
        Ok(GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            sampler,
            ..GenerateOptions::default()
        })
    }
}

impl Args {
    /// Loads, reads the prompts, writes.
    pub fn run(self) -> Result<ExitCode> {
        let options = self.sampling.options()?;
        let form = if self.no_chat { Form::Plain } else { Form::Chat };
        let rows = self
            .data
            .as_deref()
            .map(|path| Dataset::read(path, &self.model.reading()))
            .transpose()?;
        let loaded = self.model.load()?;
        match (rows, &self.prompt) {
            (Some(rows), _) => answer_rows(&loaded, &rows, form, &options)?,
            (None, prompt) => {
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
}

fn answer_streaming(loaded: &Loaded, asked: &Asked, options: &GenerateOptions) -> Result<()> {
    let mut stream = loaded.tokenizer.stream();
    let mut failed = None;
    loaded
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
    output::line(stream.finish()?)
}

fn answer_json(loaded: &Loaded, asked: &Asked, options: &GenerateOptions) -> Result<()> {
    let answers = loaded
        .model
        .generate(std::slice::from_ref(&asked.tokens), options, &mut |_, _| ())?;
    for answer in answers {
        output::json(&json_of(asked, &loaded.tokenizer.decode(&answer.tokens)?, &answer))?;
    }
    Ok(())
}

/// Rows to read before the next lot of answers is written.
const LOT: usize = 64;

fn answer_rows(loaded: &Loaded, rows: &Dataset, form: Form, options: &GenerateOptions) -> Result<()> {
    let bar = output::bar(rows.len(), "rows");
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
        let answers = loaded
            .model
            .generate(&prompts, &options, &mut |_, _| ())
            .with_context(|| format!("{} and the rows after it", rows.place(start)))?;
        for (asked, answer) in lot.iter().zip(&answers) {
            output::json(&json_of(asked, &loaded.tokenizer.decode(&answer.tokens)?, answer))?;
        }
        bar.inc(lot.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

fn json_of(asked: &Asked, text: &str, answer: &decoder::Generated) -> serde_json::Value {
    let stopped = match answer.stopped {
        Stop::Eos => "eos",
        Stop::Length => "length",
        _ => "context",
    };
    let mut object = json!({ "prompt": asked.text, "text": text, "tokens": answer.tokens.len(), "stopped": stopped });
    if let Some(reference) = &asked.reference {
        object["reference"] = json!(reference);
    }
    object
}
