//! Rows that choose their own adapters: the choice reaches whatever of the model is asked about them.

use std::fs;

use data::{SpecialTokens, Tokenizer};
use evaluate::{Answer, Drawing, Report, Result, Scorer, Suite, evaluate};
use serde_json::Value;
use tensor_core::{AdapterRouting, Documents};

/// Adapter `N` finds token N as likely as 1/2 and all others 1/8, and answers with it; the default is adapter 0.
struct Switched;

fn chosen(mix: &AdapterRouting) -> u32 {
    mix.shares()[0].0 as u32
}

fn score(adapter: u32, token: u32) -> f32 {
    if adapter == token { 0.5f32.ln() } else { 0.125f32.ln() }
}

impl Scorer for Switched {
    fn log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; tokens.len()];
        for (range, mix) in documents.mixed_ranges() {
            for at in range.start + 1..range.end {
                scores[at] = score(chosen(mix), tokens[at]);
            }
        }
        Ok(scores)
    }

    fn next_log_probs(&self, _: &[u32], documents: &Documents, candidates: &[u32]) -> Result<Vec<Vec<f32>>> {
        let each = |mix: &AdapterRouting| candidates.iter().map(|&token| score(chosen(mix), token)).collect();
        Ok(documents.mixed_ranges().map(|(_, mix)| each(mix)).collect())
    }

    fn answer(&self, prompts: &[Vec<u32>], mixes: &[AdapterRouting], _: &Drawing) -> Result<Vec<Answer>> {
        assert_eq!(prompts.len(), mixes.len());
        let answer = |mix| Answer {
            tokens: vec![chosen(mix)],
            ended: true,
        };
        Ok(mixes.iter().map(answer).collect())
    }

    fn mix(&self, chosen: Option<&Value>) -> Result<Option<AdapterRouting>, String> {
        match chosen {
            None => Ok(Some(AdapterRouting::one(0))),
            Some(Value::Number(number)) => Ok(Some(AdapterRouting::one(number.as_u64().unwrap_or(0) as usize))),
            Some(other) => Err(other.to_string()),
        }
    }
}

/// Words `a b c d e f` are tokens 0 to 5.
fn tokenizer() -> Tokenizer {
    let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"c":2,"d":3,"e":4,"f":5},"unk_token":"f"}}"#;
    let inner = json.parse().expect("a tokenizer");
    Tokenizer::from_parts(inner, SpecialTokens::new([]), None).expect("a tokenizer")
}

fn run(kind: &str, options: &str, rows: &str) -> Result<Report> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.jsonl"), rows).unwrap();
    let path = dir.path().join("suite.toml");
    let suite = format!("[[task]]\nname = \"t\"\nkind = \"{kind}\"\ndata = \"t.jsonl\"\n{options}");
    fs::write(&path, suite).unwrap();
    evaluate(
        &Suite::load(&path)?,
        "switched",
        &Switched,
        &tokenizer(),
        &mut |_, _, _| (),
    )
}

#[test]
fn each_text_and_each_of_its_windows_is_scored_by_its_own_adapters() {
    let rows = "{\"text\": \"c b b b\", \"adapter\": 1}\n{\"text\": \"c b b\", \"adapter\": 2}\n{\"text\": \"c a\"}\n";
    for options in ["", "max_length = 2\n", "text_field = \"text\"\n"] {
        let report = run("perplexity", options, rows).unwrap();
        // Three times 1/2 by adapter 1, twice 1/8 by adapter 2, once 1/2 by the default.
        let wanted = (4.0 * 2f64.ln() + 2.0 * 8f64.ln()) / 6.0;
        let found = report.tasks["t"].perplexity.unwrap().ln();
        assert!((found - wanted).abs() < 1e-6, "{options}: {found} {wanted}");
    }
}

#[test]
fn each_label_is_scored_by_its_row_s_adapters() {
    let rows = "{\"prompt\": \"c\", \"completion\": \" b\", \"adapter\": 1}\n\
                {\"prompt\": \"c\", \"completion\": \" d\", \"adapter\": 3}\n\
                {\"prompt\": \"c\", \"completion\": \" b\", \"adapter\": 3}\n";
    // Over single tokens at once, and over whole answers.
    for options in ["", "normalise = \"per_token\"\n"] {
        let task = &run("classification", options, rows).unwrap().tasks["t"];
        assert_eq!(task.confusion, Some(vec![vec![1, 1], vec![0, 1]]), "{options}");
    }
}

#[test]
fn each_answer_is_given_by_its_row_s_adapters() {
    // More rows than are answered at a time.
    let row = |idx: usize| {
        let (word, adapter) = (["a", "b", "c", "d"][idx % 4], idx % 4);
        format!("{{\"prompt\": \"f\", \"completion\": \"{word}\", \"adapter\": {adapter}}}")
    };
    let rows = (0..40).map(row).collect::<Vec<_>>().join("\n");
    assert_eq!(run("exact_match", "", &rows).unwrap().tasks["t"].exact_match, Some(1.0));
}

#[test]
fn a_choice_that_is_none_is_refused_with_its_row() {
    let rows = "{\"text\": \"c b\"}\n{\"text\": \"c b\", \"adapter\": \"x\"}\n";
    let error = run("perplexity", "", rows).unwrap_err().to_string();
    assert!(
        error.contains("row 2") && error.contains("`adapter`") && error.contains("\"x\""),
        "{error}"
    );
}
