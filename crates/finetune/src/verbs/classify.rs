//! `finetune classify`: the label of a text, or of each row of a file, with every label's probability.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use data::{Dataset, Row};
use decoder::HeadKind;
use serde_json::{Map, Value, json};
use session::Loaded;
use session::adapters;
use session::classifier::{self, Classified, Input};
use tensor_core::AdapterRouting;

use crate::args::ModelArgs;
use crate::output;

/// Arguments of `classify`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "For models that were trained with `objective.kind = \"classify\"`: each text's likeliest label and the probability of\n\
                  every label. A reward model (`objective.kind = \"reward\"`) gives its score instead.\n\
                  With --json each text is a line {\"index\", \"text\", \"tokens\", \"label\", \"probability\", \"probabilities\"}, and\n\
                  `reference` is the row's own label where it has one. How many labels were right is told on stderr.\n\n\
                  Example:\n  finetune classify --model smollm2-135m-instruct --adapter runs/classify --text \"What a lovely day\"\n  \
                  finetune classify --model smollm2-135m-instruct --adapter runs/classify --data new.jsonl --json > labels.jsonl"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to label
    #[arg(long, value_name = "TEXT", required_unless_present = "data", conflicts_with = "data")]
    text: Option<String>,
    /// A file of rows to label: their `text`; a `label` beside it is compared with
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// How what was found is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text,
    /// A line of JSON a row.
    Json,
}

/// The likeliest labels that a line for people has room for.
const SHOWN: usize = 4;
/// Rows to read before the next lot of results is written.
const LOT: usize = 256;

impl Args {
    /// Loads, reads the rows, labels them.
    pub fn run(self) -> Result<ExitCode> {
        let rows = self
            .data
            .as_deref()
            .map(|path| models::datafile::read(path, &self.model.reading(), &output::events()))
            .transpose()?;
        let loaded = self.model.load(&output::events())?;
        if *loaded.model.head_kind() == HeadKind::LanguageModel {
            bail!(
                "`{}`: wanted a classifier, found a language model, which has no labels\n\
                 hint: give the `--adapter` or the model of a run with `objective.kind = \"classify\"`, or use `finetune generate`",
                self.model.model
            );
        }
        let form = if self.json { Form::Json } else { Form::Text };
        match (rows, self.text) {
            (Some(rows), _) => label_rows(&loaded, &rows, form)?,
            (None, text) => label_text(&loaded, text.unwrap_or_default(), form)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Labels one text.
pub(super) fn label_text(loaded: &Loaded, text: String, form: Form) -> Result<()> {
    let input = classifier::input(&Row::Text(text), loaded)?;
    let documents = [input.documents[0].as_slice()];
    // Without rows there is no choice of adapters: the first of several takes part.
    let outputs = classifier::outputs(loaded, &documents, &[], &mut |_| ())?;
    show(loaded, form, None, &input, &outputs, None)
}

/// Labels each row.
pub(super) fn label_rows(loaded: &Loaded, rows: &Dataset, form: Form) -> Result<()> {
    let work = output::events().begin("rows", rows.len());
    let (mut right, mut compared) = (0_usize, 0_usize);
    for start in (0..rows.len()).step_by(LOT) {
        let lot = start..rows.len().min(start + LOT);
        let mut inputs: Vec<Input> = Vec::with_capacity(lot.len());
        let mut mixes: Vec<AdapterRouting> = Vec::new();
        for idx in lot.clone() {
            let place = || rows.place(idx).to_string();
            let input = classifier::input(rows.row(idx), loaded).with_context(place)?;
            if let Some(mix) = loaded.mix(rows, idx).with_context(place)? {
                mixes.extend(input.documents.iter().map(|_| mix.clone()));
            }
            inputs.push(input);
        }
        let documents: Vec<&[u32]> = inputs
            .iter()
            .flat_map(|input| &input.documents)
            .map(Vec::as_slice)
            .collect();
        let outputs = classifier::outputs(loaded, &documents, &mixes, &mut |_| ())
            .with_context(|| format!("{} and the rows after it", rows.place(start)))?;
        let mut rest = outputs.as_slice();
        for (idx, input) in lot.zip(&inputs) {
            let (own, behind) = rest.split_at(input.documents.len());
            rest = behind;
            let adapter = loaded
                .adapters
                .as_ref()
                .map(|_| json!(rows.kept(idx, adapters::COLUMN)));
            show(loaded, form, Some(idx), input, own, adapter)?;
            if let Some(label) = input.label {
                compared += 1;
                right += usize::from(Classified::of(&own[0]).best == label);
            }
        }
        work.advance(inputs.len());
    }
    drop(work);
    if compared > 0 {
        let share = 100.0 * right as f64 / compared as f64;
        output::note(format!("{right} of {compared} labels are the rows' own ({share:.1} %)"));
    }
    Ok(())
}

/// Shows what the head says of a row; `adapter` is the row's choice where rows choose.
fn show(
    loaded: &Loaded,
    form: Form,
    idx: Option<usize>,
    input: &Input,
    outputs: &[Vec<f32>],
    adapter: Option<Value>,
) -> Result<()> {
    let mut object = Map::new();
    if let Some(idx) = idx {
        object.insert("index".into(), json!(idx));
    }
    object.insert("text".into(), json!(input.text));
    if let Some(adapter) = adapter {
        object.insert("adapter".into(), adapter);
    }
    object.insert(
        "tokens".into(),
        json!(input.documents.iter().map(Vec::len).sum::<usize>()),
    );
    let said = match classifier::classes(loaded.model.head_kind()) {
        Some(labels) => {
            let found = Classified::of(&outputs[0]);
            object.extend(found.as_json(labels));
            if let Some(label) = input.label {
                object.insert("reference".into(), json!(labels[label]));
            }
            found.shown(labels, SHOWN)
        }
        None => scores(outputs, &mut object),
    };
    match (form, idx) {
        (Form::Json, _) => output::json(&object),
        (Form::Text, None) => output::line(said),
        (Form::Text, Some(_)) => output::line(format!("{said}\t{}", one_line(&input.text))),
    }
}

/// The scores of a reward model: of one text, or of the two replies of a preference.
fn scores(outputs: &[Vec<f32>], object: &mut Map<String, Value>) -> String {
    if let [chosen, rejected] = outputs {
        object.insert("score_chosen".into(), json!(chosen[0]));
        object.insert("score_rejected".into(), json!(rejected[0]));
        return format!("chosen {:.4}, rejected {:.4}", chosen[0], rejected[0]);
    }
    object.insert("score".into(), json!(outputs[0][0]));
    format!("{:.4}", outputs[0][0])
}

/// The beginning of a text, without line breaks.
fn one_line(text: &str) -> String {
    const MOST: usize = 80;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_shown_by_its_beginning_on_one_line() {
        assert_eq!(one_line("a\nb  c"), "a b c");
        assert_eq!(one_line(&"é".repeat(100)), "é".repeat(80) + "…");
    }
}
