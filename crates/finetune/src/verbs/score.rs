//! `finetune score`: how likely a model finds each row of a file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use checkpoint::TensorInfo;
use data::Dataset;
use models::prompts::{self, Form, Length};
use serde_json::{Value, json};
use session::Loaded;
use session::adapters::{COLUMN, tell_base};
use tch::{Device, Kind, Tensor};
use tensor_core::{AdapterRouting, Documents};

use crate::args::FormArgs;
use crate::args::ModelArgs;
use crate::args::needs_language_model;
use crate::output;

/// Arguments of `score`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A line of JSON a row: its `index` in the file (from 0), `tokens`, `predicted` (those that have a probability: all\n\
                  but the first), `bytes`, `predicted_bytes` (those of the predicted tokens), `log_prob` (of the predicted tokens\n\
                  together, in nats), and `adapter` where rows choose their adapters. Perplexity and bits per byte are of the\n\
                  predicted tokens.\n\n\
                  Example:\n  finetune score --model smollm2-135m-instruct --data texts.jsonl --dtype f32"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Rows with a `text`, or of any other shape that has one whole text
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    form: FormArgs,
    /// A safetensors file for what the model says of every token: `[tokens, vocabulary]` in f32, row N under `N`
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// Each row's text in its line, as it was scored
    #[arg(long)]
    text: bool,
    /// The summary as JSON too
    #[arg(long)]
    json: bool,
}

/// Tokens that go through the model together.
const ROW_TOKENS: usize = 2048;

/// A row's tokens and its text.
struct Scored {
    idx: usize,
    tokens: Vec<u32>,
    text: String,
    /// The bytes of its predicted tokens.
    predicted_bytes: usize,
    /// Its adapters, where it may choose them.
    mix: Option<AdapterRouting>,
    /// What it says of them, where it may.
    adapter: Option<Value>,
}

#[derive(Default)]
struct Sums {
    rows: usize,
    tokens: usize,
    predicted: usize,
    bytes: usize,
    predicted_bytes: usize,
    log_prob: f64,
}

impl Args {
    /// Scores row by row, packed.
    pub fn run(self) -> Result<ExitCode> {
        let rows = models::datafile::read(&self.data, &self.model.reading(), &output::events())?;
        let loaded = self.model.load(&output::events())?;
        needs_language_model(&loaded, &self.model, "score")?;
        let form = self
            .form
            .choice()
            .choose_for(&rows, &loaded.source, &loaded.tokenizer)?;
        check_lengths(&loaded, &rows, form)?;
        let work = output::events().begin("rows", rows.len());
        let mut sums = Sums::default();
        let mut lot: Vec<Scored> = Vec::new();
        for idx in 0..rows.len() {
            let row = row_tokens(&loaded, &rows, idx, form).with_context(|| rows.place(idx).to_string())?;
            let waiting: usize = lot.iter().map(|row| row.tokens.len()).sum();
            if waiting > 0 && waiting + row.tokens.len() > ROW_TOKENS {
                score(&loaded, &std::mem::take(&mut lot), self.text, &mut sums)?;
                work.set(idx, rows.len());
            }
            lot.push(row);
        }
        score(&loaded, &lot, self.text, &mut sums)?;
        drop(work);
        if let Some(path) = &self.logits {
            write_logits(&loaded, &rows, form, path)?;
        }
        tell_base(loaded.adapters.as_ref(), &rows, loaded.source.events());
        summary(&sums, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn row_tokens(loaded: &Loaded, rows: &Dataset, idx: usize, form: Form) -> Result<Scored> {
    let whole = prompts::whole(rows.row(idx), form, &loaded.tokenizer)?;
    if whole.tokens.is_empty() {
        bail!("the text is empty: wanted at least one token");
    }
    let prompts::Whole { text, tokens } = whole;
    Ok(Scored {
        idx,
        predicted_bytes: text.len() - evaluate::unpredicted(&text, &tokens, &loaded.tokenizer)?,
        tokens,
        text,
        mix: loaded.mix(rows, idx)?,
        adapter: loaded.adapters.as_ref().map(|_| json!(rows.kept(idx, COLUMN))),
    })
}

/// Refuses rows that the model cannot see whole, all at once and before anything is scored.
fn check_lengths(loaded: &Loaded, rows: &Dataset, form: Form) -> Result<()> {
    let mut lengths = Length::whole_rows(loaded.model.max_positions());
    for idx in 0..rows.len() {
        let place = || rows.place(idx).to_string();
        let whole = prompts::whole(rows.row(idx), form, &loaded.tokenizer).with_context(place)?;
        lengths.take(&place(), whole.tokens.len());
    }
    lengths.check(rows.len())
}

/// The rows as documents, each with its adapters.
fn documents(lot: &[Scored]) -> Documents {
    let lengths: Vec<usize> = lot.iter().map(|row| row.tokens.len()).collect();
    let mixes: Vec<AdapterRouting> = lot.iter().filter_map(|row| row.mix.clone()).collect();
    let documents = Documents::new(&lengths);
    if mixes.is_empty() {
        documents
    } else {
        documents.with_routings(&mixes)
    }
}

fn score(loaded: &Loaded, lot: &[Scored], shows_text: bool, sums: &mut Sums) -> Result<()> {
    if lot.is_empty() {
        return Ok(());
    }
    let documents = documents(lot);
    let tokens: Vec<u32> = lot.iter().flat_map(|row| row.tokens.iter().copied()).collect();
    let each = loaded.model.token_log_probs(&tokens, &documents)?;
    if each.iter().any(|log_prob| !log_prob.is_finite()) {
        bail!(
            "rows {} to {}: wanted finite log-probabilities, found NaN or infinity\n\
             hint: the weights are damaged, or overflow in this dtype",
            sums.rows + 1,
            sums.rows + lot.len()
        );
    }
    for (row, range) in lot.iter().zip(documents.ranges()) {
        let log_prob: f64 = each[range].iter().map(|&log_prob| f64::from(log_prob)).sum();
        let (predicted, bytes) = (row.tokens.len() - 1, row.text.len());
        let mut object = json!({
            "index": row.idx,
            "tokens": row.tokens.len(),
            "predicted": predicted,
            "bytes": bytes,
            "predicted_bytes": row.predicted_bytes,
            "log_prob": log_prob,
        });
        if let Some(adapter) = &row.adapter {
            object["adapter"] = adapter.clone();
        }
        if shows_text {
            object["text"] = json!(row.text);
        }
        output::json(&object)?;
        sums.rows += 1;
        sums.tokens += row.tokens.len();
        sums.predicted += predicted;
        sums.bytes += bytes;
        sums.predicted_bytes += row.predicted_bytes;
        sums.log_prob += log_prob;
    }
    Ok(())
}

/// One row's logits in memory at a time.
fn write_logits(loaded: &Loaded, rows: &Dataset, form: Form, path: &Path) -> Result<()> {
    let scored = (0..rows.len()).map(|idx| row_tokens(loaded, rows, idx, form));
    let scored = scored.collect::<Result<Vec<_>>>()?;
    let infos: Vec<TensorInfo> = (scored.iter().enumerate())
        .map(|(idx, row)| TensorInfo {
            name: idx.to_string(),
            shape: vec![row.tokens.len() as i64, loaded.model.vocab_size() as i64],
            kind: Kind::Float,
        })
        .collect();
    let work = output::events().begin("logits", rows.len());
    checkpoint::write_safetensors(path, &infos, |info| {
        work.advance(1);
        let row = &scored[info.name.parse::<usize>()?];
        let tokens: Vec<i64> = row.tokens.iter().map(|&token| i64::from(token)).collect();
        let tokens = Tensor::from_slice(&tokens).to_device(loaded.model.device());
        let logits = loaded.model.logits(&tokens, &documents(std::slice::from_ref(row)));
        Ok(logits.to_device(Device::Cpu))
    })?;
    drop(work);
    Ok(())
}

fn summary(sums: &Sums, as_json: bool) -> Result<()> {
    // A single token predicts nothing: there is no perplexity then.
    let perplexity = (sums.predicted > 0).then(|| (-sums.log_prob / sums.predicted as f64).exp());
    let bits_per_byte =
        (sums.predicted_bytes > 0).then(|| -sums.log_prob / std::f64::consts::LN_2 / sums.predicted_bytes as f64);
    if as_json {
        return output::json(&json!({
            "rows": sums.rows,
            "tokens": sums.tokens,
            "predicted": sums.predicted,
            "bytes": sums.bytes,
            "predicted_bytes": sums.predicted_bytes,
            "log_prob": sums.log_prob,
            "perplexity": perplexity,
            "bits_per_byte": bits_per_byte,
        }));
    }
    let number = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| format!("{value:.4}"));
    output::line(format!(
        "{} rows, {} tokens: perplexity {}, {} bits per byte",
        sums.rows,
        sums.tokens,
        number(perplexity),
        number(bits_per_byte)
    ))
}
