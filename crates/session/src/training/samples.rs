//! Answers before and after, for `report.md`.

use anyhow::Result;
use data::{Dataset, Tokenizer};
use decoder::{Decoder, GenerateOptions, HeadKind};
use events::figures;
use methods::Adapted;
use methods::recipe::Recipe;
use models::prompts::{self, Asked, Form};
use train::{Entry, Report, ReportText, ReportTo, Sample};

use super::sets::Sets;

/// The prompts: the recipe's own, and the first of the evaluation data (of the training data if there are none).
///
/// Each is asked in the form of what is learnt.
pub fn asked(
    sets: &Sets,
    recipe: &Recipe,
    (tokenizer, form): (&Tokenizer, Form),
    model: &Decoder,
) -> Result<Vec<Asked>> {
    let wanted = &recipe.report;
    let shown = recipe.train.report_to.contains(&ReportTo::Markdown);
    if !shown || sets.labels.is_some() || *model.head_kind() != HeadKind::LanguageModel {
        return Ok(Vec::new());
    }
    let mut asked: Vec<Asked> = wanted
        .prompts
        .iter()
        .map(|text| prompts::of_text(text, form, tokenizer))
        .collect::<Result<_>>()?;
    if wanted.samples > 0 {
        let source = recipe.data.eval.first().unwrap_or(&recipe.data.train[0]);
        let rows = Dataset::read(&source.path, &source.reading())?;
        for row in rows.rows().take(wanted.samples) {
            asked.push(match row {
                data::Row::Text(text) => opening(text, tokenizer)?,
                // In training a plain prompt is never a turn.
                row => prompts::of_row(row, Form::Plain, tokenizer)?,
            });
        }
    }
    let context = model.max_positions();
    asked.retain(|asked| !asked.tokens.is_empty() && asked.tokens.len() < context);
    Ok(asked)
}

/// The first words of a text, to be continued.
fn opening(text: &str, tokenizer: &Tokenizer) -> Result<Asked> {
    let words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    let (start, rest) = words.split_at(words.len().min(12).min(words.len().div_ceil(2)));
    let asked = prompts::of_text(start.concat().trim_end(), Form::Plain, tokenizer)?;
    Ok(Asked {
        reference: Some(rest.concat().chars().take(300).collect()),
        ..asked
    })
}

/// Greedy answers.
pub fn answers(model: &Decoder, tokenizer: &Tokenizer, asked: &[Asked], max_new_tokens: usize) -> Result<Vec<String>> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let prompts: Vec<Vec<u32>> = asked.iter().map(|asked| asked.tokens.clone()).collect();
    let options = GenerateOptions {
        max_new_tokens,
        ..GenerateOptions::default()
    };
    let answers = match model.generate(&prompts, &options, &mut |_, _| ()) {
        // The loop refuses such a model too, and says where the numbers are lost.
        Err(decoder::Error::NotFinite) => return Ok(vec!["(none: the logits are not finite)".into(); asked.len()]),
        answers => answers?,
    };
    answers
        .iter()
        .map(|answer| Ok(tokenizer.decode(&answer.tokens)?))
        .collect()
}

/// Questions with both answers.
pub fn pair(asked: Vec<Asked>, before: Vec<String>, after: Vec<String>) -> Vec<Sample> {
    let answers = before.into_iter().zip(after);
    asked
        .into_iter()
        .zip(answers)
        .map(|(asked, (before, after))| Sample {
            prompt: asked.text,
            before,
            after,
            wanted: asked.reference,
        })
        .collect()
}

/// Each metric of the last evaluation, before the first step and now. An evaluation after some steps is not "before".
fn measured(history: &[Entry]) -> Vec<(String, String, String)> {
    let is_evaluation = |entry: &&Entry| entry.values.keys().any(|name| name.starts_with("eval/"));
    let mut evaluations = history.iter().filter(is_evaluation);
    let before = history.iter().filter(is_evaluation).find(|entry| entry.step == 0);
    let Some(last) = evaluations.next_back().filter(|last| last.step > 0) else {
        return Vec::new();
    };
    let show = |entry: Option<&Entry>, name: &str| match entry {
        None => "not measured (see `train.eval_on_start`)".to_owned(),
        Some(entry) => entry
            .number(name)
            .map_or_else(|| "-".to_owned(), |value| format!("{value:.4}")),
    };
    let names = last.values.keys().filter(|name| name.starts_with("eval/"));
    names
        .map(|name| (name.clone(), show(before, name), show(Some(last), name)))
        .collect()
}

/// What `report.md` tells.
pub fn report_text(recipe: &Recipe, adapted: &Adapted, report: &Report, samples: Vec<Sample>) -> ReportText {
    let results = measured(&report.history);
    let data: Vec<String> = recipe.data.train.iter().map(|source| source.name.clone()).collect();
    let setting = |name: &str, value: String| (name.to_owned(), value);
    ReportText {
        title: format!("{} on {}", recipe.model.name_or_path, data.join(", ")),
        settings: vec![
            setting("method", adapted.what.clone()),
            setting("learning rate", recipe.train.learning_rate.to_string()),
            setting("documents a step", recipe.train.documents_per_step().to_string()),
            setting(
                "dtype",
                if adapted.model.kind() == tch::Kind::BFloat16 {
                    "bf16"
                } else {
                    "f32"
                }
                .to_owned(),
            ),
            setting("tokens", figures::count(report.num_tokens as f64)),
        ],
        results,
        samples,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn entry(step: usize, name: &str, value: f64) -> Entry {
        Entry {
            step,
            epoch: 0.0,
            values: Map::from_iter([(name.to_owned(), json!(value))]),
        }
    }

    #[test]
    fn before_is_what_was_measured_before_the_first_step_and_nothing_else() {
        let later = [
            entry(1, "loss", 3.0),
            entry(13, "eval/loss", 2.0),
            entry(26, "eval/loss", 1.0),
        ];
        let row = |before: &str, after: &str| vec![("eval/loss".to_owned(), before.to_owned(), after.to_owned())];
        assert_eq!(
            measured(&later),
            row("not measured (see `train.eval_on_start`)", "1.0000")
        );
        let from_start: Vec<Entry> = [&[entry(0, "eval/loss", 4.0)][..], &later].concat();
        assert_eq!(measured(&from_start), row("4.0000", "1.0000"));
        assert_eq!(measured(&from_start[..2]), []);
        assert_eq!(measured(&[]), []);
    }
}
