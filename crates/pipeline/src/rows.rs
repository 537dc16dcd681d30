//! The rows of the studies: tasks of short questions, each split by its question's hash, and general text.

mod alignment;
mod continuations;
mod factbook;
mod questions;

use anyhow::{Context, Result, ensure};
use fetch::{Cache, write_if_changed};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is fetched for the studies.
pub(crate) const NEEDED: [&str; 7] = [
    "smollm2-135m-instruct",
    "sarcasm",
    "quartz",
    "socialiqa",
    "factbook",
    "perplexity-text",
    "vader",
];

/// Tasks that a small model learns within a minute: which chapter of the World Factbook a text is from, which part of the
/// world it is about, which article of the chapter on government it is from.
pub(crate) const TASKS: [&str; 3] = ["chapter", "region", "article"];

/// Tasks at which it stays near chance for longer: whether a headline is sarcastic, whether a quantity rises or falls,
/// what a person will want.
const HARD: [&str; 3] = ["sarcasm", "quartz", "socialiqa"];

/// Questions of each task that are never trained on.
const HELD_OUT: usize = 300;
/// Questions of each task that are trained on, times the scale.
pub(crate) const TRAINED: usize = 640;
/// Paragraphs of general text, times the scale.
const PARAGRAPHS: usize = 40;

/// Paragraphs of web text that pruning is calibrated on, times the scale.
const CALIBRATED: usize = 200;
/// Articles, and programs, that pruning is measured on besides; and how much of each.
const OTHERS: usize = 12;
const OTHER_CHARACTERS: usize = 1200;
/// Questions that are asked in other words, and questions that nothing is trained on.
const ASKED: usize = 100;
/// Paragraphs whose experts a sparse memory spares: the first, and how many.
const BACKGROUND: (usize, usize) = (600, 100);

/// The suite's entry for general text.
pub(super) const GENERAL: &str = "[[task]]\nname = \"general\"\nkind = \"perplexity\"\ndata = \"general.jsonl\"\n";

#[derive(Deserialize)]
pub(super) struct Row {
    pub(super) input: Vec<Value>,
    pub(super) ideal: String,
}

/// Writes `TASK.train.jsonl` and `TASK.test.jsonl` of each task, `general.jsonl`, and suites: `TASK.toml` of a task and the general text, `all.toml` of all [`TASKS`] and it.
pub(crate) fn prepare(cache: &Cache, scale: usize) -> Result<PathBuf> {
    let folder = cache.data().join(format!("reproduce-{scale}"));
    let mut all = String::new();
    for task in TASKS.into_iter().chain(HARD) {
        let found = match task {
            "chapter" => factbook::chapters(&cache.data())?,
            "region" => factbook::regions(&cache.data())?,
            "article" => factbook::articles(&cache.data())?,
            _ => read(&cache.data().join(task).join("samples.jsonl"))?,
        };
        let rows = in_order(found);
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
        // Words of several tokens are cheaper generated than scored one by one; a digit or letter is one token.
        let kind = if HARD.contains(&task) {
            "kind = \"classification\""
        } else {
            "kind = \"exact_match\"\nmax_new_tokens = 6"
        };
        let suite = format!("[[task]]\nname = \"{task}\"\n{kind}\ndata = \"{task}.test.jsonl\"\n\n");
        write_if_changed(&folder.join(format!("{task}.toml")), &(suite.clone() + GENERAL))?;
        if TASKS.contains(&task) {
            all += &suite;
        }
    }
    write_if_changed(
        &folder.join("general.jsonl"),
        &paragraphs(&general_text(cache), 0, PARAGRAPHS * scale)?,
    )?;
    facts(cache, &folder)?;
    write_if_changed(&folder.join("all.toml"), &(all + GENERAL))?;
    prepare_pruning(cache, &folder, scale)?;
    questions::prepare(&folder)?;
    alignment::preferences(&folder)?;
    alignment::openings(cache, &folder)?;
    Ok(folder)
}

/// `calibration.jsonl`: web text behind that of `general.jsonl`; `other.jsonl`: encyclopaedia and programs; and suites of both kinds
/// of text (`prune.toml`), and with how web text goes on (`prune-blocks.toml`).
fn prepare_pruning(cache: &Cache, folder: &Path, scale: usize) -> Result<()> {
    let web = cache.data().join("perplexity-text/openwebtext.jsonl");
    let held_out = PARAGRAPHS * scale;
    let rows = paragraphs(&web, 0, held_out + CALIBRATED * scale)?;
    let behind: String = rows.split_inclusive('\n').skip(held_out).collect();
    write_if_changed(&folder.join("calibration.jsonl"), &behind)?;
    let other = others(&cache.data().join("perplexity-text/text-compression.jsonl"))?;
    write_if_changed(&folder.join("other.jsonl"), &other)?;
    let other = "[[task]]\nname = \"other\"\nkind = \"perplexity\"\ndata = \"other.jsonl\"\n";
    let texts = format!("{GENERAL}\n{other}");
    write_if_changed(&folder.join("prune.toml"), &texts)?;
    continuations::prepare(cache, folder, held_out + CALIBRATED * scale)?;
    write_if_changed(&folder.join("prune-blocks.toml"), &(texts + continuations::SUITE))?;
    Ok(())
}

/// The beginnings of the file's encyclopaedic articles and programs, as rows of text.
fn others(path: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Text {
        text: String,
        r#type: String,
    }
    let file = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut rows = String::new();
    let mut counts = [0; 2];
    for (idx, line) in file.lines().enumerate() {
        let row: Text = serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), idx + 1))?;
        let kind = ["wikipedia", "codeparrot/github-code"]
            .iter()
            .position(|kind| *kind == row.r#type);
        let Some(kind) = kind.filter(|&kind| counts[kind] < OTHERS) else {
            continue;
        };
        counts[kind] += 1;
        let beginning: String = row.text.chars().take(OTHER_CHARACTERS).collect();
        rows += &json!({ "text": beginning }).to_string();
        rows.push('\n');
    }
    ensure!(
        counts == [OTHERS; 2],
        "`{}` holds {counts:?} texts, wanted {OTHERS} of each",
        path.display()
    );
    Ok(rows)
}

/// The questions of a file.
fn read(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(idx, line)| serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), idx + 1)))
        .collect()
}

/// Each question once, in the order of the questions' hashes: the same on every machine, unrelated to the file's order.
fn in_order(found: Vec<Row>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    for row in found {
        let key = Value::from(row.input.clone()).to_string();
        if seen.insert(key.clone()) {
            rows.push((Sha256::digest(key), row));
        }
    }
    rows.sort_by_key(|(digest, _)| *digest);
    rows.into_iter().map(|(_, row)| row).collect()
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

pub(super) fn general_text(cache: &Cache) -> PathBuf {
    cache.data().join("perplexity-text/openwebtext.jsonl")
}

/// `count` paragraphs of the file, from number `first`, as rows of text.
pub(super) fn paragraphs(path: &Path, first: usize, count: usize) -> Result<String> {
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
        let one = in_order(read(&write("one", &["a", "b", "a", "c"])).unwrap());
        let two = in_order(read(&write("two", &["c", "b", "a"])).unwrap());
        assert_eq!(one.len(), 3);
        assert_eq!(conversations(&one), conversations(&two));
    }
}
