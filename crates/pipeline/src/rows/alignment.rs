//! The rows of the studies of alignment: constructed pairs, and openings to be continued.

use super::{GENERAL, general_text, paragraphs};
use anyhow::{Context as _, Result};
use fetch::{Cache, write_if_changed};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Web texts whose first words are continued: the first of them, and how many are trained on.
const OPENINGS: (usize, usize) = (240, 448);
/// Prompts whose replies are measured.
const LISTENED: usize = 64;

/// `pairs.train.jsonl` and `pairs.test.jsonl`: the questions on chapters, with the right one and a wrong one (constructed:
/// nobody ranked them); `asked.jsonl`: other questions, to see how long replies become; and the suite `preferences.toml`.
pub(super) fn preferences(folder: &Path) -> Result<()> {
    for part in ["train", "test"] {
        let path = folder.join(format!("chapter.{part}.jsonl"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let rows: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let replies: BTreeSet<String> = rows.iter().map(|row| last(row).to_string()).collect();
        let replies: Vec<Value> = replies
            .iter()
            .map(|reply| serde_json::from_str(reply))
            .collect::<Result<_, _>>()?;
        let mut pairs = String::new();
        for row in &rows {
            let messages = row["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
            let wrong: Vec<&Value> = replies.iter().filter(|reply| *reply != last(row)).collect();
            // Which wrong one: by the question's hash, so that it is the same on every machine.
            let digest = Sha256::digest(row.to_string());
            let rejected = wrong[usize::from(digest[0]) % wrong.len()];
            let prompt = &messages[..messages.len() - 1];
            pairs += &json!({ "prompt": prompt, "chosen": [last(row)], "rejected": [rejected] }).to_string();
            pairs.push('\n');
        }
        write_if_changed(&folder.join(format!("pairs.{part}.jsonl")), &pairs)?;
    }
    let path = folder.join("socialiqa.test.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let asked: String = text.split_inclusive('\n').take(LISTENED).collect();
    write_if_changed(&folder.join("asked.jsonl"), &asked)?;
    let suite = "[[task]]\nname = \"pairs\"\nkind = \"pairs\"\ndata = \"pairs.test.jsonl\"\n\n\
                 [[task]]\nname = \"replies\"\nkind = \"replies\"\ndata = \"asked.jsonl\"\nmax_new_tokens = 48\n\n";
    write_if_changed(&folder.join("preferences.toml"), &(suite.to_owned() + GENERAL))?;
    Ok(())
}

fn last(row: &Value) -> &Value {
    row["messages"]
        .as_array()
        .and_then(|turns| turns.last())
        .unwrap_or(&Value::Null)
}

/// `openings.train.jsonl` and `openings.test.jsonl`: the first words of web texts, to be continued; and `sentiment.toml`:
/// what a lexicon makes of that, and what the rest of the model lost.
pub(super) fn openings(cache: &Cache, folder: &Path) -> Result<()> {
    for (name, first, count) in [
        ("train", OPENINGS.0, OPENINGS.1),
        ("test", OPENINGS.0 + OPENINGS.1, LISTENED),
    ] {
        let rows = paragraphs(&general_text(cache), first, count)?;
        let mut prompts = String::new();
        for row in rows.lines() {
            let row: Value = serde_json::from_str(row)?;
            let words: Vec<&str> = row["text"]
                .as_str()
                .unwrap_or_default()
                .split_whitespace()
                .take(10)
                .collect();
            prompts += &json!({ "prompt": words.join(" ") }).to_string();
            prompts.push('\n');
        }
        write_if_changed(&folder.join(format!("openings.{name}.jsonl")), &prompts)?;
    }
    let lexicon = cache.data().join("vader/vader_lexicon.txt");
    let suite = format!(
        "[[task]]\nname = \"replies\"\nkind = \"replies\"\ndata = \"openings.test.jsonl\"\nmax_new_tokens = 16\n\
         temperature = 1.0\nrewards = [{{ kind = \"lexicon\", path = {} }}]\n\n",
        toml::Value::String(lexicon.display().to_string()),
    );
    write_if_changed(&folder.join("sentiment.toml"), &(suite + GENERAL))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_meets_a_wrong_answer_and_always_the_same() {
        let home = tempfile::tempdir().unwrap();
        let row = |question: &str, answer: &str| {
            json!({ "messages": [{ "role": "user", "content": question }, { "role": "assistant", "content": answer }] })
                .to_string()
                + "\n"
        };
        let rows = row("a", "x") + &row("b", "y") + &row("c", "z");
        for name in ["chapter.train", "chapter.test", "socialiqa.test"] {
            fs::write(home.path().join(format!("{name}.jsonl")), &rows).unwrap();
        }
        preferences(home.path()).unwrap();
        let read = || fs::read_to_string(home.path().join("pairs.train.jsonl")).unwrap();
        let first = read();
        for (line, answer) in first.lines().zip(["x", "y", "z"]) {
            let pair: Value = serde_json::from_str(line).unwrap();
            assert_eq!(pair["chosen"][0]["content"], answer);
            assert_ne!(pair["rejected"][0]["content"], answer);
            assert_eq!(pair["prompt"].as_array().unwrap().len(), 1);
        }
        preferences(home.path()).unwrap();
        assert_eq!(read(), first);
    }
}
