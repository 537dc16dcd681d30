//! What the demo reads and shows: a suite of held-out headlines and general text, and a few questions.

use crate::place::{Cache, write_if_changed};
use anyhow::Result;
use fetch::rows::{self, Row, lines};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Held-out headlines whose answers are shown, half of them sarcastic.
const SHOWN: usize = 6;

/// What the demo reads and shows.
#[derive(Debug)]
pub(crate) struct Data {
    /// Held-out headlines and general text, as `finetune evaluate` wants them.
    pub(crate) suite: PathBuf,
    /// A few held-out headlines as questions, one prompt a line.
    pub(crate) questions: PathBuf,
    /// The same headlines with their right answers.
    pub(crate) shown: Vec<(String, String)>,
}

/// Writes what the demo shows and measures with; the rows themselves are there once they are fetched.
pub(crate) fn for_the_demo(cache: &Cache) -> Result<Data> {
    let held_out = rows::headlines(cache)?;
    let general = rows::general_text(cache)?;
    let folder = cache.data().join("sarcasm");
    let shown = shown(&held_out);
    let questions = folder.join("questions.jsonl");
    write_if_changed(
        &questions,
        &lines(shown.iter().map(|row| json!({ "messages": row.prompt() }))),
    )?;
    let suite = folder.join("suite.toml");
    write_if_changed(&suite, &suite_text(&folder.join("test.jsonl"), &general))?;
    let shown = shown
        .iter()
        .map(|row| (row.headline().to_owned(), row.ideal.clone()))
        .collect();
    Ok(Data {
        suite,
        questions,
        shown,
    })
}

/// The first few held-out rows of each label, by turns.
fn shown(held_out: &[Row]) -> Vec<&Row> {
    let of = |label: &'static str| held_out.iter().filter(move |row| row.ideal == label);
    of("1")
        .zip(of("0"))
        .flat_map(|(yes, no)| [yes, no])
        .take(SHOWN)
        .collect()
}

fn suite_text(test: &Path, general: &Path) -> String {
    let quoted = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned()).to_string();
    format!(
        "# Written by `cargo xtask demo`.\n\n\
         [[task]]\nname = \"sarcasm\"\nkind = \"classification\"\ndata = {}\n\n\
         [[task]]\nname = \"general\"\nkind = \"perplexity\"\ndata = {}\n",
        quoted(test),
        quoted(general),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn half_of_what_is_shown_is_sarcastic_and_the_suite_has_both_tasks() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path());
        for name in ["sarcasm", "perplexity-text"] {
            fs::create_dir_all(cache.data().join(name)).unwrap();
        }
        let line = |index: usize| {
            let messages = [
                json!({ "role": "system", "content": "s" }),
                json!({ "role": "user", "content": format!("h{index}") }),
            ];
            json!({ "input": messages, "ideal": (index % 2).to_string() })
        };
        fs::write(cache.data().join("sarcasm/samples.jsonl"), lines((0..7_000).map(line))).unwrap();
        fs::write(
            cache.data().join("perplexity-text/openwebtext.jsonl"),
            "{\"0\": \"whole\", \"1\": \"shuffled\"}\n",
        )
        .unwrap();
        let data = for_the_demo(&cache).unwrap();
        assert_eq!(
            data.shown.iter().map(|(_, label)| label.as_str()).collect::<Vec<_>>(),
            ["1", "0", "1", "0", "1", "0"]
        );
        let suite: toml::Table = fs::read_to_string(data.suite).unwrap().parse().unwrap();
        assert_eq!(suite["task"].as_array().unwrap().len(), 2);
    }
}
