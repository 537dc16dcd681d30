//! A recipe's TOML with the overrides of the command line, and where in it each key stands.
//!
//! Sections are read one by one, so that every error names the file, the line, the key, and a near name where there is one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::check::{self, Problem, What};
use crate::overrides;

/// A recipe as it was written, with overrides applied.
#[derive(Debug)]
pub struct Document {
    path: PathBuf,
    text: String,
    table: Table,
    overridden: Vec<String>,
}

impl Document {
    /// Reads `path` and applies overrides such as `train.learning_rate=1e-4` in order.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("recipe `{}` cannot be read", path.display()))?;
        Self::parse(path, text, overrides)
    }

    /// As [`Self::read`], of a text that is already there.
    pub fn parse(path: &Path, text: String, overrides: &[String]) -> Result<Self> {
        let table = match text.parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(&text, span.start));
                bail!("`{}:{line}`: not TOML: {}", path.display(), error.message().trim());
            }
        };
        let mut document = Self {
            path: path.to_owned(),
            text,
            table,
            overridden: Vec::new(),
        };
        for assignment in overrides {
            document
                .overridden
                .push(overrides::apply(&mut document.table, assignment)?);
        }
        Ok(document)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The top-level keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }

    /// How many tables the array at `key` holds; 0 if there is none.
    pub fn count(&self, key: &str) -> Result<usize> {
        match self.table.get(key) {
            None => Ok(0),
            Some(Value::Array(items)) => Ok(items.len()),
            Some(other) => Err(self.error(
                key,
                &format!("wanted a list of tables (`[[{key}]]`), found {}", a(other)),
                None,
            )),
        }
    }

    /// The `kind` of the table at `at` (`objective`, `surgery.0`), one of `known`.
    pub fn kind(&self, at: &str, known: &[&'static str]) -> Result<&'static str> {
        let listed = listing(known.iter().copied());
        let place = format!("{at}.kind");
        match lookup(&self.table, &place) {
            Some(Value::String(kind)) => known.iter().copied().find(|name| name == kind).ok_or_else(|| {
                let near = nearest(kind, known.iter().copied());
                self.error(&place, &format!("wanted one of {listed}, found `{kind}`"), near)
            }),
            Some(other) => Err(self.error(&place, &format!("wanted one of {listed}, found {}", a(other)), None)),
            None => Err(self.error(at, &format!("`kind` is missing; wanted one of {listed}"), None)),
        }
    }

    /// The table at `at`, as it is written; none if there is none.
    pub fn table(&self, at: &str) -> Result<Option<&Table>> {
        match lookup(&self.table, at) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(table)),
            Some(other) => Err(self.error(at, &format!("wanted a table, found {}", a(other)), None)),
        }
    }

    /// The table at `at` as `T`; none if it is not there. `without` is a key that the caller has read already.
    pub fn section<T: DeserializeOwned + JsonSchema>(&self, at: &str, without: Option<&str>) -> Result<Option<T>> {
        self.part(at, |key| Some(key) != without)
    }

    /// As [`Self::section`], of the keys that `is_wanted` alone.
    pub fn part<T: DeserializeOwned + JsonSchema>(
        &self,
        at: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Option<T>> {
        let Some(value) = lookup(&self.table, at) else {
            return Ok(None);
        };
        let mut value = value.clone();
        if let Value::Table(table) = &mut value {
            table.retain(|key, _| is_wanted(key));
        }
        if let Some(problem) = check::problem::<T>(&value) {
            return Err(self.problem(at, problem));
        }
        serde_path_to_error::deserialize(value).map(Some).map_err(|error| {
            let inner = error.path().to_string();
            let place = if inner == "." {
                at.to_owned()
            } else {
                format!("{at}.{}", steps(&inner))
            };
            self.explain(&place, error.inner().message().trim())
        })
    }

    /// The error of a key's value, with its place and a near name.
    pub fn error(&self, at: &str, what: &str, near: Option<&str>) -> anyhow::Error {
        let hint = near.map_or(String::new(), |near| format!("\nhint: did you mean `{near}`?"));
        anyhow!("{}: `{at}`: {what}{hint}", self.place(at))
    }

    /// Where `at` stands: `file:line`, or the override that set it.
    fn place(&self, at: &str) -> String {
        let overridden = self
            .overridden
            .iter()
            .rev()
            .find(|key| at == *key || at.starts_with(&format!("{key}.")));
        match overridden {
            Some(key) => format!("`--set {key}`"),
            None => format!("`{}:{}`", self.path.display(), self.line(at)),
        }
    }

    /// The line of `at`, or of the nearest table around it.
    fn line(&self, at: &str) -> usize {
        let Ok(root) = DeTable::parse(&self.text) else { return 1 };
        let mut span = 0..0;
        let mut here: Option<&DeTable> = Some(root.get_ref());
        let mut item: Option<&Spanned<DeValue>> = None;
        for step in at.split('.') {
            let next = match (here, item.map(Spanned::get_ref)) {
                (Some(table), _) => table
                    .iter()
                    .find(|(key, _)| key.get_ref().as_ref() == step)
                    .map(|(key, value)| {
                        span = key.span();
                        value
                    }),
                (None, Some(DeValue::Array(items))) => {
                    step.parse::<usize>().ok().and_then(|i| items.get(i)).inspect(|value| {
                        span = value.span();
                    })
                }
                _ => None,
            };
            let Some(value) = next else { break };
            item = Some(value);
            here = value.get_ref().as_table();
        }
        line_of(&self.text, span.start)
    }

    /// The error of what the schema finds below `at`.
    fn problem(&self, at: &str, Problem { at: inner, what }: Problem) -> anyhow::Error {
        let place = match inner.is_empty() {
            true => at.to_owned(),
            false => format!("{at}.{inner}"),
        };
        let (found, known, what) = match &what {
            What::UnknownKey { known } => {
                let listed = listing(known.iter().map(String::as_str));
                let found = inner.rsplit('.').next().unwrap_or_default();
                (found, known, format!("no such key; wanted one of {listed}"))
            }
            What::UnknownWord { found, known } => {
                let listed = listing(known.iter().map(String::as_str));
                (
                    found.as_str(),
                    known,
                    format!("wanted one of {listed}, found `{found}`"),
                )
            }
        };
        self.error(&place, &what, nearest(found, known.iter().map(String::as_str)))
    }

    /// Turns the words of a type's reader into place, wanted and found.
    fn explain(&self, at: &str, message: &str) -> anyhow::Error {
        if message.starts_with("data did not match any variant") {
            let found = lookup(&self.table, at).map_or("nothing", a);
            return self.error(at, &format!("{found} cannot stand here"), None);
        }
        let mut message = message
            .replace("invalid type: ", "found ")
            .replace("invalid value: ", "found ")
            .replace(", expected ", ", wanted ");
        // What Rust calls the numbers is no user's concern.
        for (rust, plain) in [
            ("i64", "a whole number"),
            ("u64", "a whole number from 0"),
            ("usize", "a whole number from 0"),
            ("f64", "a number"),
        ] {
            if let Some(start) = message.strip_suffix(&format!(", wanted {rust}")) {
                message = format!("{start}, wanted {plain}");
            }
        }
        self.error(at, &message, None)
    }
}

fn lookup<'t>(table: &'t Table, at: &str) -> Option<&'t Value> {
    let mut steps = at.split('.');
    let mut here = table.get(steps.next()?)?;
    for step in steps {
        here = match here {
            Value::Table(table) => table.get(step)?,
            Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(here)
}

/// `train[0].path` as `train.0.path`.
fn steps(path: &str) -> String {
    path.replace('[', ".")
        .replace(']', "")
        .trim_start_matches('.')
        .to_owned()
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// What a value is, in words.
pub(crate) fn a(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

/// Names in backticks with commas between.
pub fn listing<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The name nearest to `wanted`, if it is near enough to be meant.
pub fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = names.map(|name| (strsim::levenshtein(wanted, name), name)).min()?;
    (near.0 <= 1 + wanted.chars().count() / 4).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Train {
        learning_rate: f64,
        rows: Vec<Row>,
    }

    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Row {
        path: String,
    }

    const TEXT: &str = "# a recipe\n[train]\nlearning_rate = 1e-3\nrows = [\n  { path = \"a\" },\n  { path = \"b\" },\n]\n\n[[surgery]]\nkind = \"lora\"\nr = 8\n";

    fn document(text: &str, overrides: &[&str]) -> Result<Document> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        Document::parse(Path::new("r.toml"), text.to_owned(), &overrides)
    }

    fn train(text: &str, overrides: &[&str]) -> Result<Train> {
        document(text, overrides)?
            .section("train", None)
            .map(|train| train.expect("there is one"))
    }

    #[test]
    fn every_error_names_its_line_and_a_near_key() {
        let cases: [(String, &[&str], &[&str]); 8] = [
            (
                TEXT.replace("learning_rate", "lerning_rate"),
                &[],
                &[
                    "`r.toml:3`",
                    "`train.lerning_rate`",
                    "no such key",
                    "did you mean `learning_rate`?",
                ],
            ),
            (
                TEXT.replace("\"b\"", "7"),
                &[],
                &[
                    "`r.toml:6`",
                    "`train.rows.1.path`",
                    "found integer `7`",
                    "wanted a string",
                ],
            ),
            (
                TEXT.replace("path = \"b\"", "pat = \"b\""),
                &[],
                &["`r.toml:6`", "`train.rows.1.pat`", "did you mean `path`?"],
            ),
            (
                TEXT.replace("learning_rate = 1e-3", ""),
                &[],
                &["`r.toml:2`", "missing field `learning_rate`"],
            ),
            (TEXT.replace("= 1e-3", "= "), &[], &["`r.toml:3`", "not TOML"]),
            (
                TEXT.to_owned(),
                &["train.learning_rte=1"],
                &["`--set train.learning_rte`", "did you mean `learning_rate`?"],
            ),
            (
                TEXT.to_owned(),
                &["train.rows.5.path=x"],
                &["`--set train.rows.5.path`", "2 entries"],
            ),
            (TEXT.to_owned(), &["train"], &["wanted `key=value`"]),
        ];
        for (text, overrides, wanted) in cases {
            let error = format!("{:#}", train(&text, overrides).unwrap_err());
            for part in wanted {
                assert!(error.contains(part), "`{part}` in: {error}");
            }
        }
    }

    #[test]
    fn an_unknown_kind_is_refused_with_a_near_one() {
        let error = document(&TEXT.replace("lora", "lara"), &[])
            .unwrap()
            .kind("surgery.0", &["lora", "full"])
            .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("`r.toml:10`") && error.contains("did you mean `lora`?"),
            "{error}"
        );
    }
}
