//! Rows made of what was fetched: headlines to learn from, headlines held out, general text.
//!
//! Duplicates are dropped before the split, so that no held-out headline was seen in training. The order is that of the
//! headlines' hashes: the same on every machine, and unrelated to the order of the file.

mod pairs;

use crate::facts;
use crate::place::{Cache, write_if_changed};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Headlines that are never trained on.
pub const HELD_OUT: usize = 500;
/// Headlines that recipes train on; the rest are in `train-all.jsonl`.
pub const TRAINED: usize = 5_000;
/// Paragraphs of general text.
const PARAGRAPHS: usize = 100;

/// A row of the data set: instruction and headline, `1` for sarcasm or `0`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Row {
    input: Vec<Message>,
    /// The right answer.
    pub ideal: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Message {
    role: String,
    content: String,
}

impl Row {
    /// The headline.
    pub fn headline(&self) -> &str {
        self.input.last().map_or("", |message| &message.content)
    }

    /// The messages before the answer.
    pub fn prompt(&self) -> Vec<Value> {
        self.input
            .iter()
            .map(|message| json!({ "role": message.role, "content": message.content }))
            .collect()
    }

    fn conversation(&self) -> Value {
        let mut messages = self.prompt();
        messages.push(json!({ "role": "assistant", "content": self.ideal }));
        json!({ "messages": messages })
    }

    fn labelled(&self) -> Value {
        let label = if self.ideal == "1" { "sarcastic" } else { "sincere" };
        json!({ "text": self.headline(), "label": label })
    }
}

/// Writes the files that recipes read beside the fetched ones of the entry `name`; most entries need none.
pub fn prepare(name: &str, cache: &Cache) -> Result<()> {
    match name {
        "sarcasm" => headlines(cache).map(drop),
        "perplexity-text" => general_text(cache).map(drop),
        "socialiqa" => pairs::write(&cache.data().join(name)),
        "factbook" => facts::prepare(cache),
        _ => Ok(()),
    }
}

/// The headlines as conversations and with their labels, split; the held-out ones.
pub fn headlines(cache: &Cache) -> Result<Vec<Row>> {
    let folder = cache.data().join("sarcasm");
    let mut rows = split(read(&folder.join("samples.jsonl"))?);
    ensure!(
        rows.len() > HELD_OUT + TRAINED,
        "`{}` holds only {} headlines",
        folder.display(),
        rows.len()
    );
    let rest = rows.split_off(HELD_OUT);
    let write = |name: &str, rows: &[Row], of: fn(&Row) -> Value| {
        write_if_changed(&folder.join(name), &lines(rows.iter().map(of)))
    };
    write("test.jsonl", &rows, Row::conversation)?;
    write("train.jsonl", &rest[..TRAINED], Row::conversation)?;
    write("train-all.jsonl", &rest, Row::conversation)?;
    write("labelled-test.jsonl", &rows, Row::labelled)?;
    write("labelled-train.jsonl", &rest[..TRAINED], Row::labelled)?;
    Ok(rows)
}

/// The general text as rows of text.
pub fn general_text(cache: &Cache) -> Result<PathBuf> {
    let text = cache.data().join("perplexity-text");
    let general = text.join("general.jsonl");
    write_if_changed(&general, &paragraphs(&text.join("openwebtext.jsonl"))?)?;
    Ok(general)
}

fn read(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let row = |(index, line)| serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), index + 1));
    text.lines().enumerate().map(row).collect()
}

/// Each headline once, in the order of the headlines' hashes.
fn split(rows: Vec<Row>) -> Vec<Row> {
    let mut seen = HashSet::new();
    let mut rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| seen.insert(row.headline().to_owned()))
        .collect();
    rows.sort_by_cached_key(|row| Sha256::digest(row.headline()));
    rows
}

/// The first paragraphs of the file, as rows of text; key `0` of a row holds the original, the others it shuffled.
fn paragraphs(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut rows = Vec::new();
    for (index, line) in text.lines().take(PARAGRAPHS).enumerate() {
        let place = || format!("{}:{}", path.display(), index + 1);
        let row: Value = serde_json::from_str(line).with_context(place)?;
        rows.push(json!({ "text": row.get("0").and_then(Value::as_str).with_context(place)? }));
    }
    Ok(lines(rows))
}

/// A line for each row.
pub fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter()
        .fold(String::new(), |text, row| text + &row.to_string() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(headline: &str, ideal: &str) -> Row {
        let message = |role: &str, content: &str| Message {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        Row {
            input: vec![message("system", "Sarcasm?"), message("user", headline)],
            ideal: ideal.to_owned(),
        }
    }

    #[test]
    fn duplicates_go_and_the_order_does_not_depend_on_the_files() {
        let rows = vec![row("a", "1"), row("b", "0"), row("a", "1"), row("c", "0")];
        let reversed: Vec<Row> = rows.iter().rev().cloned().collect();
        let ordered = split(rows);
        assert_eq!(ordered.len(), 3);
        assert_eq!(ordered, split(reversed));
    }

    #[test]
    fn a_row_becomes_a_conversation_that_ends_with_the_label() {
        let wanted = json!({ "messages": [
            { "role": "system", "content": "Sarcasm?" },
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": "1" },
        ] });
        assert_eq!(row("a", "1").conversation(), wanted);
    }

    #[test]
    fn held_out_and_trained_headlines_do_not_meet() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path());
        for name in ["sarcasm", "perplexity-text"] {
            fs::create_dir_all(cache.data().join(name)).unwrap();
        }
        let line = |index: usize| {
            let messages = [
                json!({ "role": "system", "content": "s" }),
                json!({ "role": "user", "content": format!("h{}", index / 2) }),
            ];
            json!({ "input": messages, "ideal": (index / 2 % 2).to_string() })
        };
        fs::write(cache.data().join("sarcasm/samples.jsonl"), lines((0..14_000).map(line))).unwrap();
        fs::write(
            cache.data().join("perplexity-text/openwebtext.jsonl"),
            "{\"0\": \"whole\", \"1\": \"shuffled\"}\n",
        )
        .unwrap();
        for name in ["sarcasm", "perplexity-text", "quartz"] {
            prepare(name, &cache).unwrap();
        }

        let headlines = |name: &str| -> HashSet<String> {
            let text = fs::read_to_string(cache.data().join("sarcasm").join(name)).unwrap();
            let headline =
                |line: &str| serde_json::from_str::<Value>(line).unwrap()["messages"][1]["content"].to_string();
            text.lines().map(headline).collect()
        };
        let (test, train) = (headlines("test.jsonl"), headlines("train.jsonl"));
        assert_eq!((test.len(), train.len()), (HELD_OUT, TRAINED));
        assert!(test.is_disjoint(&train) && test.is_disjoint(&headlines("train-all.jsonl")));
        for (labelled, chats) in [("labelled-test.jsonl", &test), ("labelled-train.jsonl", &train)] {
            let text = fs::read_to_string(cache.data().join("sarcasm").join(labelled)).unwrap();
            let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let texts: HashSet<String> = rows.iter().map(|row| row["text"].to_string()).collect();
            assert_eq!(&texts, chats);
            for row in rows {
                let number: u32 = row["text"].as_str().unwrap()[1..].parse().unwrap();
                assert_eq!(row["label"], if number % 2 == 1 { "sarcastic" } else { "sincere" });
            }
        }
        assert_eq!(
            fs::read_to_string(cache.data().join("perplexity-text/general.jsonl")).unwrap(),
            "{\"text\":\"whole\"}\n"
        );
    }
}
