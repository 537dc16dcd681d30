//! Pairs of replies made of questions with several options: the right one beside each wrong one.
//!
//! They are constructed: people wrote the options, but nobody ranked the replies. Split by question, in the order of the
//! questions' hashes.

use crate::place::write_if_changed;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Questions that are never trained on.
const HELD_OUT: usize = 300;

#[derive(Deserialize)]
struct Row {
    input: Vec<Message>,
    ideal: String,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

/// A question with its right answer and the others.
#[derive(Debug, PartialEq)]
struct Question {
    text: String,
    right: String,
    wrong: Vec<String>,
}

/// Writes `pairs-*.jsonl` and `judged-*.jsonl` beside `folder/samples.jsonl`, for training and held out.
pub(super) fn write(folder: &Path) -> Result<()> {
    let path = folder.join("samples.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut questions = BTreeMap::new();
    for (idx, line) in text.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), idx + 1);
        let row: Row = serde_json::from_str(line).with_context(place)?;
        let question = question(&row).with_context(place)?;
        questions.insert(Sha256::digest(&question.text).to_vec(), question);
    }
    let questions: Vec<Question> = questions.into_values().collect();
    ensure!(
        questions.len() > HELD_OUT,
        "`{}` holds only {} questions",
        path.display(),
        questions.len()
    );
    let (test, train) = questions.split_at(HELD_OUT);
    for (name, part) in [("test", test), ("train", train)] {
        write_if_changed(&folder.join(format!("pairs-{name}.jsonl")), &pairs(part))?;
        write_if_changed(&folder.join(format!("judged-{name}.jsonl")), &judged(part))?;
    }
    Ok(())
}

/// Takes `… ? A: this; B: that; C: another.` apart.
fn question(row: &Row) -> Result<Question> {
    let text = &row.input.last().context("no message")?.content;
    let (text, options) = text.split_once(" A: ").context("no option `A: `")?;
    let (first, rest) = options.split_once("; B: ").context("no option `; B: `")?;
    let (second, third) = rest.split_once("; C: ").context("no option `; C: `")?;
    let mut options = vec![first, second, third.trim_end_matches('.')];
    let right = ["A", "B", "C"].iter().position(|letter| *letter == row.ideal);
    let right = options.remove(right.with_context(|| format!("wanted A, B or C as `ideal`, found `{}`", row.ideal))?);
    Ok(Question {
        text: text.to_owned(),
        right: right.to_owned(),
        wrong: options.into_iter().map(str::to_owned).collect(),
    })
}

fn turn(role: &str, content: &str) -> Value {
    json!([{ "role": role, "content": content }])
}

fn pairs(questions: &[Question]) -> String {
    let rows = questions.iter().flat_map(|question| {
        question.wrong.iter().map(|wrong| {
            json!({
                "prompt": turn("user", &question.text),
                "chosen": turn("assistant", &question.right),
                "rejected": turn("assistant", wrong),
            })
        })
    });
    super::lines(rows)
}

fn judged(questions: &[Question]) -> String {
    let rows = questions.iter().flat_map(|question| {
        let replies = std::iter::once((&question.right, true)).chain(question.wrong.iter().map(|wrong| (wrong, false)));
        replies.map(|(reply, label)| {
            json!({
                "prompt": turn("user", &question.text),
                "completion": turn("assistant", reply),
                "label": label,
            })
        })
    });
    super::lines(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(content: &str, ideal: &str) -> Row {
        Row {
            input: vec![Message {
                content: content.to_owned(),
            }],
            ideal: ideal.to_owned(),
        }
    }

    #[test]
    fn a_question_becomes_the_right_reply_beside_each_wrong_one() {
        let found = question(&row("Who? A: he; or she; B: they; C: it.", "B")).unwrap();
        let rows: Vec<Value> = pairs(&[found])
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["prompt"][0]["content"], "Who?");
        assert_eq!(rows[0]["chosen"][0]["content"], "they");
        assert_eq!(rows[0]["rejected"][0]["content"], "he; or she");
        assert_eq!(rows[1]["rejected"][0]["content"], "it");
        let found = question(&row("Who? A: he; B: they; C: it.", "C")).unwrap();
        let labels: Vec<Value> = judged(&[found])
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["label"].clone())
            .collect();
        assert_eq!(labels, [true, false, false]);
    }

    #[test]
    fn a_question_without_options_or_with_another_answer_is_refused() {
        for (content, ideal, needle) in [
            ("Who? A: he; B: they.", "A", "`; C: `"),
            ("Who?", "A", "`A: `"),
            ("Who? A: he; B: they; C: it.", "D", "found `D`"),
        ] {
            let error = question(&row(content, ideal)).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
