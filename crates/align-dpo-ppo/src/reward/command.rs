//! A program outside that scores: one JSON object a line in, one a line out.

use std::io::Write as _;
use std::process::{self, Stdio};

use serde_json::{Map, Value, json};

use super::{Reward, Said};
use crate::{Error, Result};

/// A program with its arguments, started once for each batch of replies.
#[derive(Debug)]
pub struct Command(Vec<String>);

impl Command {
    /// Errors: no program.
    pub fn new(command: &[String]) -> Result<Self> {
        if command.is_empty() {
            return Err(Error::Option {
                option: "command",
                wanted: "a program and its arguments",
                found: "nothing".into(),
            });
        }
        Ok(Self(command.to_vec()))
    }

    /// What the program wrote, line by line, and how it ended if not well.
    fn run(&self, input: &str) -> Result<(Vec<String>, Option<String>), String> {
        let mut child = process::Command::new(&self.0[0])
            .args(&self.0[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("`{}` cannot be started: {error}", self.0[0]))?;
        let stdin = child.stdin.take();
        // A program that writes while it reads would wait for us as we for it.
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Some(mut stdin) = stdin {
                    // A program that stops reading is told by what it does not write.
                    let _ = stdin.write_all(input.as_bytes());
                }
            });
            child.wait_with_output()
        });
        let output = output.map_err(|error| format!("`{}`: {error}", self.0[0]))?;
        let lines = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        let failed = (!output.status.success()).then(|| format!("`{}` ended with {}", self.0[0], output.status));
        Ok((lines, failed))
    }
}

impl Reward for Command {
    fn name(&self) -> &'static str {
        "command"
    }

    fn scores(&self, replies: &[Said]) -> Vec<Result<f64, String>> {
        let input: String = replies.iter().map(|said| line(said) + "\n").collect();
        let (lines, failed) = match self.run(&input) {
            Ok(output) => output,
            Err(why) => return replies.iter().map(|_| Err(why.clone())).collect(),
        };
        let score = |idx: usize| {
            let Some(line) = lines.get(idx) else {
                let why = failed
                    .clone()
                    .unwrap_or_else(|| format!("`{}` wrote too few lines", self.0[0]));
                return Err(why);
            };
            serde_json::from_str::<Value>(line)
                .ok()
                .and_then(|line| line["score"].as_f64())
                .ok_or_else(|| format!("`{}`: wanted {{\"score\": number}}, found `{line}`", self.0[0]))
        };
        (0..replies.len()).map(score).collect()
    }
}

fn line(said: &Said) -> String {
    let mut object: Map<String, Value> = said.extra.clone();
    object.insert("prompt".into(), json!(said.prompt));
    object.insert("reply".into(), json!(said.reply));
    Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(script: &str) -> Vec<Result<f64, String>> {
        let command = Command::new(&["sh".to_owned(), "-c".to_owned(), script.to_owned()]).unwrap();
        let extra = Map::from_iter([("n".to_owned(), json!(3))]);
        let said = |reply: &'static str| Said {
            prompt: "p",
            reply,
            tokens: &[],
            num_tokens: 1,
            extra: &extra,
        };
        command.scores(&[said("one"), said("two"), said("three")])
    }

    #[test]
    fn lines_in_give_lines_out() {
        let found = scores("while read line; do echo \"{\\\"score\\\": ${#line}}\"; done");
        let length = |reply: &str| format!("{{\"n\":3,\"prompt\":\"p\",\"reply\":\"{reply}\"}}").len() as f64;
        assert_eq!(found, ["one", "two", "three"].map(|reply| Ok(length(reply))));
    }

    #[test]
    fn a_bad_line_and_a_crash_cost_their_own_replies_only() {
        let found = scores("echo '{\"score\": 0.5}'; echo nonsense; exit 3");
        assert_eq!(found[0], Ok(0.5));
        assert!(found[1].as_ref().unwrap_err().contains("found `nonsense`"));
        assert!(
            found[2].as_ref().unwrap_err().contains("exit status: 3"),
            "{:?}",
            found[2]
        );
        let missing = Command::new(&["/no/such/program".to_owned()]).unwrap();
        let extra = Map::new();
        let said = Said {
            prompt: "",
            reply: "",
            tokens: &[],
            num_tokens: 0,
            extra: &extra,
        };
        assert!(
            missing.scores(&[said])[0]
                .as_ref()
                .unwrap_err()
                .contains("cannot be started")
        );
        assert!(Command::new(&[]).is_err());
    }
}
