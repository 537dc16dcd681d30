//! Rewards that a rule gives.

use regex::Regex;
use serde_json::Value;

use super::{Reward, Said};
use crate::{Error, Result};

/// A rule over single replies.
#[derive(Debug)]
pub struct Rule(Kind);

#[derive(Debug)]
enum Kind {
    Length(usize),
    Regex(Regex),
    Exact(String),
    Json,
    Shell(Option<String>),
}

impl Rule {
    /// `1 - |n - target| / target`, not below -1, for a reply of n tokens.
    pub fn length(target: usize) -> Result<Self> {
        if target == 0 {
            return Err(Error::Option {
                option: "target",
                wanted: "at least one token",
                found: "0".into(),
            });
        }
        Ok(Self(Kind::Length(target)))
    }

    /// 1 where the pattern is found.
    pub fn regex(pattern: &str) -> Result<Self> {
        let found = Regex::new(pattern).map_err(|error| Error::Option {
            option: "pattern",
            wanted: "a regular expression",
            found: format!("`{pattern}`: {error}"),
        })?;
        Ok(Self(Kind::Regex(found)))
    }

    /// 1 where the reply is what `column` of the row says.
    pub fn exact(column: &str) -> Self {
        Self(Kind::Exact(column.to_owned()))
    }

    /// 1 where the reply is JSON.
    pub fn json() -> Self {
        Self(Kind::Json)
    }

    /// 1 where the reply is one line of words as a shell splits them, quotes closed; if `column` of the row names a
    /// program (the first word of what stands there), a half for a line that runs another one.
    pub fn shell(column: Option<&str>) -> Self {
        Self(Kind::Shell(column.map(str::to_owned)))
    }

    fn score(&self, said: &Said) -> Result<f64, String> {
        let holds = match &self.0 {
            Kind::Length(target) => {
                let off = said.num_tokens.abs_diff(*target) as f64 / *target as f64;
                return Ok((1.0 - off).max(-1.0));
            }
            Kind::Regex(pattern) => pattern.is_match(said.reply),
            Kind::Exact(column) => said.reply.trim() == text(said, column)?.trim(),
            Kind::Shell(column) => {
                let Some(program) = program(said.reply) else {
                    return Ok(0.0);
                };
                let wanted = column.as_ref().map(|column| text(said, column)).transpose()?;
                return Ok(match wanted {
                    Some(wanted) if self::program(&wanted) != Some(program) => 0.5,
                    _ => 1.0,
                });
            }
            Kind::Json => serde_json::from_str::<Value>(said.reply).is_ok(),
        };
        Ok(f64::from(u8::from(holds)))
    }
}

impl Reward for Rule {
    fn name(&self) -> &str {
        match &self.0 {
            Kind::Length(_) => "length",
            Kind::Regex(_) => "regex",
            Kind::Exact(_) => "exact",
            Kind::Json => "json",
            Kind::Shell(_) => "shell",
        }
    }

    fn scores(&self, replies: &[Said]) -> Result<Vec<Result<f64, String>>> {
        Ok(replies.iter().map(|said| self.score(said)).collect())
    }
}

/// What a column of the row says.
fn text(said: &Said, column: &str) -> Result<String, String> {
    match said.extra.get(column) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Null) | None => Err(format!("the row has no column `{column}`")),
        Some(other) => Ok(other.to_string()),
    }
}

/// The first word of a command line, if a shell could split it.
fn program(line: &str) -> Option<String> {
    let line = line.trim();
    let is_one = !line.contains(['\n', '`']);
    let words = shlex::split(line).filter(|_| is_one)?;
    words
        .into_iter()
        .next()
        .filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || "._/+-[".contains(c)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn score(rule: &Rule, reply: &str, num_tokens: usize) -> Result<f64, String> {
        let Value::Object(extra) = json!({ "answer": " 42", "number": 7, "command": "ls -l" }) else {
            unreachable!()
        };
        let said = Said {
            prompt: "?",
            reply,
            tokens: &[],
            num_tokens,
            extra: &extra,
        };
        rule.scores(&[said]).unwrap().remove(0)
    }

    #[test]
    fn each_rule_scores_as_it_says() {
        let regex = Rule::regex("^a+$").unwrap();
        for (rule, reply, num_tokens, wanted) in [
            (&Rule::length(10).unwrap(), "", 10, 1.0),
            (&Rule::length(10).unwrap(), "", 5, 0.5),
            (&Rule::length(10).unwrap(), "", 99, -1.0),
            (&regex, "aaa", 1, 1.0),
            (&regex, "aab", 1, 0.0),
            (&Rule::exact("answer"), "42\n", 1, 1.0),
            (&Rule::exact("number"), "7", 1, 1.0),
            (&Rule::exact("number"), "8", 1, 0.0),
            (&Rule::json(), "{\"a\": [1]}", 1, 1.0),
            (&Rule::json(), "{a}", 1, 0.0),
            (&Rule::shell(None), "grep -r 'a b' .", 1, 1.0),
            (&Rule::shell(None), "grep 'a b", 1, 0.0),
            (&Rule::shell(None), "Sure! Here is", 1, 0.0),
            (&Rule::shell(None), "", 1, 0.0),
            (&Rule::shell(None), "ls\nls", 1, 0.0),
            (&Rule::shell(Some("command")), "ls -a", 1, 1.0),
            (&Rule::shell(Some("command")), "du -h", 1, 0.5),
        ] {
            assert_eq!(score(rule, reply, num_tokens), Ok(wanted), "{rule:?} {reply}");
        }
        let error = score(&Rule::exact("nothing"), "x", 1).unwrap_err();
        assert!(error.contains("`nothing`"), "{error}");
        assert!(Rule::regex("(").is_err() && Rule::length(0).is_err());
    }
}
