//! The rows of the studies: three tasks of short questions, each split by its question's hash, and general text.

use crate::place::{Cache, write_if_changed};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What `cargo xtask fetch` brings for the studies.
pub(crate) const NEEDED: [&str; 6] = [
    "smollm2-135m-instruct",
    "sarcasm",
    "quartz",
    "socialiqa",
    "perplexity-text",
    "factbook",
];

/// The tasks: a headline is sarcastic or not, a quantity rises or falls, what a person will want.
pub(crate) const TASKS: [&str; 3] = ["sarcasm", "quartz", "socialiqa"];

/// Questions of each task that are never trained on.
const HELD_OUT: usize = 300;
/// Questions of each task that are trained on, times the scale.
pub(crate) const TRAINED: usize = 960;
/// Paragraphs of general text, times the scale.
const PARAGRAPHS: usize = 40;

/// Questions that are asked in other words, and questions that nothing is trained on.
const ASKED: usize = 200;
/// Paragraphs whose experts a sparse memory spares: the first, and how many.
const BACKGROUND: (usize, usize) = (600, 100);

/// The suite's entry for general text.
const GENERAL: &str = "[[task]]\nname = \"general\"\nkind = \"perplexity\"\ndata = \"general.jsonl\"\n";

#[derive(Deserialize)]
struct Row {
    input: Vec<Value>,
    ideal: String,
}

/// Writes `TASK.train.jsonl` and `TASK.test.jsonl` of each task, `general.jsonl`, and suites: `TASK.toml` of a task and the general text, `all.toml` of everything.
pub(crate) fn prepare(cache: &Cache, scale: usize) -> Result<PathBuf> {
    let folder = cache.data().join(format!("reproduce-{scale}"));
    let mut all = String::new();
    for task in TASKS {
        let rows = rows(&cache.data().join(task).join("samples.jsonl"))?;
        let wanted = HELD_OUT + TRAINED;
        ensure!(
            rows.len() >= wanted,
            "`{task}` holds {} questions, wanted {wanted}",
            rows.len()
        );
        let (test, rest) = rows.split_at(HELD_OUT);
        let train = &rest[..rest.len().min(TRAINED * scale)];
        write_if_changed(&folder.join(format!("{task}.test.jsonl")), &conversations(test))?;
        write_if_changed(&folder.join(format!("{task}.train.jsonl")), &conversations(train))?;
        let suite = format!("[[task]]\nname = \"{task}\"\nkind = \"classification\"\ndata = \"{task}.test.jsonl\"\n");
        let suite = suite + "\n";
        write_if_changed(&folder.join(format!("{task}.toml")), &(suite.clone() + GENERAL))?;
        all += &suite;
    }
    write_if_changed(
        &folder.join("general.jsonl"),
        &paragraphs(&general_text(cache), 0, PARAGRAPHS * scale)?,
    )?;
    facts(cache, &folder)?;
    write_if_changed(&folder.join("all.toml"), &(all + GENERAL))?;
    Ok(folder)
}

/// Each question once, in the order of the questions' hashes: the same on every machine, unrelated to the file's order.
fn rows(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    for (idx, line) in text.lines().enumerate() {
        let row: Row = serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), idx + 1))?;
        let key = Value::from(row.input.clone()).to_string();
        if seen.insert(key.clone()) {
            rows.push((Sha256::digest(key), row));
        }
    }
    rows.sort_by_key(|(digest, _)| *digest);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn conversations(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut messages = row.input.clone();
        messages.push(json!({ "role": "assistant", "content": row.ideal }));
        text += &json!({ "messages": messages }).to_string();
        text.push('\n');
    }
    text
}

/// The facts to memorise, true and random, asked otherwise too, others to leave alone, and the text whose experts a
/// sparse memory spares: paragraphs that are never measured.
fn facts(cache: &Cache, folder: &Path) -> Result<()> {
    let from = cache.data().join("factbook");
    for (name, rows) in [
        ("facts", usize::MAX),
        ("random", usize::MAX),
        ("paraphrased", ASKED),
        ("others", ASKED),
    ] {
        let path = from.join(format!("{name}.jsonl"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let rows = text
            .lines()
            .take(rows)
            .fold(String::new(), |text, row| text + row + "\n");
        write_if_changed(&folder.join(format!("{name}.jsonl")), &rows)?;
    }
    write_if_changed(
        &folder.join("background.jsonl"),
        &paragraphs(&general_text(cache), BACKGROUND.0, BACKGROUND.1)?,
    )?;
    let exact = |name: &str, file: &str| {
        format!("[[task]]\nname = \"{name}\"\nkind = \"exact_match\"\ndata = \"{file}.jsonl\"\nmax_new_tokens = 16\n\n")
    };
    for answers in ["facts", "random"] {
        let suite = exact("facts", answers) + &exact("otherwise", "paraphrased") + &exact("others", "others") + GENERAL;
        write_if_changed(&folder.join(format!("{answers}.toml")), &suite)?;
    }
    Ok(())
}

fn general_text(cache: &Cache) -> PathBuf {
    cache.data().join("perplexity-text/openwebtext.jsonl")
}

/// `count` paragraphs of the file, from number `first`, as rows of text.
fn paragraphs(path: &Path, first: usize, count: usize) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut rows = String::new();
    for (idx, line) in text.lines().enumerate().skip(first).take(count) {
        let place = || format!("{}:{}", path.display(), idx + 1);
        let row: Value = serde_json::from_str(line).with_context(place)?;
        let original = row.get("0").and_then(Value::as_str).with_context(place)?;
        rows += &json!({ "text": original }).to_string();
        rows.push('\n');
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_comes_once_and_always_in_the_same_order() {
        let home = tempfile::tempdir().unwrap();
        let line =
            |text: &str| format!("{{\"input\":[{{\"role\":\"user\",\"content\":\"{text}\"}}],\"ideal\":\"A\"}}\n");
        let write = |name: &str, texts: &[&str]| {
            let path = home.path().join(name);
            fs::write(&path, texts.iter().map(|text| line(text)).collect::<String>()).unwrap();
            path
        };
        let one = rows(&write("one", &["a", "b", "a", "c"])).unwrap();
        let two = rows(&write("two", &["c", "b", "a"])).unwrap();
        assert_eq!(one.len(), 3);
        assert_eq!(conversations(&one), conversations(&two));
    }
}
