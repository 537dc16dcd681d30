//! How web text goes on: the next words as a choice between two, and as words to be written.

use super::{general_text, paragraphs};
use anyhow::{Context, Result, ensure};
use fetch::{Cache, write_if_changed};
use serde_json::{Value, json};
use std::path::Path;

/// The most paragraphs that are asked about, and the fewest.
const ASKED: usize = 100;
const FEWEST: usize = 20;
/// Words of a beginning, and of what comes next.
const BEGINNING: usize = 60;
const NEXT: usize = 16;

/// The suite's entries for both.
pub(super) const SUITE: &str = "\n[[task]]\nname = \"choice\"\nkind = \"pairs\"\ndata = \"next-words.pairs.jsonl\"\n\
                               \n[[task]]\nname = \"written\"\nkind = \"exact_match\"\ndata = \"next-words.jsonl\"\nmax_new_tokens = 24\n";

/// Writes `next-words.pairs.jsonl`: the true next words against those of the next paragraph, and `next-words.jsonl`:
/// the true ones to be written. Of the paragraphs from number `first`.
pub(super) fn prepare(cache: &Cache, folder: &Path, first: usize) -> Result<()> {
    let text = paragraphs(&general_text(cache), first, usize::MAX)?;
    let (pairs, written) = rows(&text)?;
    write_if_changed(&folder.join("next-words.pairs.jsonl"), &pairs)?;
    write_if_changed(&folder.join("next-words.jsonl"), &written)?;
    Ok(())
}

fn rows(text: &str) -> Result<(String, String)> {
    let mut cut = Vec::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line)?;
        let words: Vec<&str> = row["text"]
            .as_str()
            .context("a row of text")?
            .split_whitespace()
            .collect();
        if words.len() >= BEGINNING + NEXT {
            let (beginning, rest) = words.split_at(BEGINNING);
            cut.push((beginning.join(" "), format!(" {}", rest[..NEXT].join(" "))));
        }
    }
    ensure!(
        cut.len() > FEWEST,
        "wanted {} paragraphs of {} words, found {}",
        FEWEST + 1,
        BEGINNING + NEXT,
        cut.len()
    );
    let (mut pairs, mut written) = (String::new(), String::new());
    for neighbours in cut.windows(2).take(ASKED) {
        let [(prompt, right), (_, wrong)] = neighbours else {
            continue;
        };
        pairs += &json!({ "prompt": prompt, "chosen": right, "rejected": wrong }).to_string();
        written += &json!({ "prompt": prompt, "completion": right }).to_string();
        pairs.push('\n');
        written.push('\n');
    }
    Ok((pairs, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_for_one_is_right_for_the_next() {
        let line = |row: usize| {
            let words: Vec<String> = (0..BEGINNING + NEXT).map(|word| format!("{row}.{word}")).collect();
            json!({ "text": words.join(" ") }).to_string()
        };
        let lines: Vec<String> = (0..=ASKED)
            .flat_map(|row| [line(row), json!({ "text": "too short" }).to_string()])
            .collect();
        let text = lines.join("\n");
        let (pairs, written) = rows(&text).unwrap();
        let pairs: Vec<Value> = pairs.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        let written: Vec<Value> = written.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        assert_eq!((pairs.len(), written.len()), (ASKED, ASKED));
        assert_eq!(pairs[0]["rejected"], pairs[1]["chosen"]);
        assert_eq!(pairs[7]["chosen"], written[7]["completion"]);
        assert!(
            pairs[3]["chosen"]
                .as_str()
                .unwrap()
                .starts_with(&format!(" 3.{BEGINNING} "))
        );
        assert!(rows("{\"text\": \"one\"}").is_err());
    }
}
