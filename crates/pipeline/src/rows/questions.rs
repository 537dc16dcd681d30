//! Open questions: what a person does, wants or feels, without the options to choose from.

use anyhow::{Context, Result};
use fetch::write_if_changed;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Writes `open.jsonl`: each row of `socialiqa.test.jsonl` that lists its options, as a question with the right one's words.
pub(super) fn prepare(folder: &Path) -> Result<()> {
    let path = folder.join("socialiqa.test.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut rows = String::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line)?;
        if let Some((question, answer)) = opened(&row) {
            let turns = [
                json!({ "role": "user", "content": question }),
                json!({ "role": "assistant", "content": answer }),
            ];
            rows += &json!({ "messages": turns }).to_string();
            rows.push('\n');
        }
    }
    write_if_changed(&folder.join("open.jsonl"), &rows)?;
    Ok(())
}

/// The question before its options, and the words of the option whose letter is the answer.
fn opened(row: &Value) -> Option<(String, String)> {
    let turns = row["messages"].as_array()?;
    let letter = turns.last()?["content"].as_str()?;
    let asked = turns.iter().rev().find(|turn| turn["role"] == "user")?["content"].as_str()?;
    let (question, options) = asked.split_once(" A: ")?;
    let option = format!("A: {options}").split("; ").find_map(|option| {
        Some(
            option
                .strip_prefix(letter)?
                .strip_prefix(": ")?
                .trim_end_matches('.')
                .to_owned(),
        )
    })?;
    Some((question.to_owned(), option))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_loses_its_options_and_its_answer_gets_words() {
        let row = |answer: &str| {
            json!({ "messages": [
                { "role": "user", "content": "Robin phoned. How do others feel? A: glad; B: at ease; C: loved." },
                { "role": "assistant", "content": answer },
            ] })
        };
        let question = || "Robin phoned. How do others feel?".to_owned();
        assert_eq!(opened(&row("A")), Some((question(), "glad".into())));
        assert_eq!(opened(&row("C")), Some((question(), "loved".into())));
        assert_eq!(opened(&row("D")), None);
    }
}
