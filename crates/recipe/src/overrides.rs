//! `--set key=value`: values put into a recipe's table, through tables and lists.

use anyhow::{Result, anyhow, bail};
use toml::{Table, Value};

use crate::document::a;

/// Puts the value of `assignment` where its key says; the key.
pub(crate) fn apply(table: &mut Table, assignment: &str) -> Result<String> {
    let Some((key, text)) = assignment.split_once('=') else {
        bail!("`--set {assignment}`: wanted `key=value`, such as `train.learning_rate=1e-4`");
    };
    let (key, text) = (key.trim(), text.trim());
    // What is no TOML value is a plain string, so that paths need no quotes.
    let value = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let steps: Vec<&str> = key.split('.').collect();
    if steps.iter().any(|step| step.is_empty()) {
        bail!("`--set {assignment}`: `{key}` is no key; wanted names with dots between, such as `train.seed`");
    }
    place_at(table, &steps, value).map_err(|why| anyhow!("`--set {key}`: {why}"))?;
    Ok(key.to_owned())
}

fn place_at(table: &mut Table, steps: &[&str], value: Value) -> Result<(), String> {
    let (first, rest) = steps.split_first().ok_or("the key is empty")?;
    if rest.is_empty() {
        table.insert((*first).to_owned(), value);
        return Ok(());
    }
    let is_index = rest[0].parse::<usize>().is_ok();
    let next = table.entry((*first).to_owned()).or_insert_with(|| {
        if is_index {
            Value::Array(Vec::new())
        } else {
            Value::Table(Table::new())
        }
    });
    place_in(next, first, rest, value)
}

fn place_in(inside: &mut Value, name: &str, steps: &[&str], value: Value) -> Result<(), String> {
    match inside {
        Value::Table(table) => place_at(table, steps, value),
        Value::Array(items) => {
            let (first, rest) = steps.split_first().ok_or("the key is empty")?;
            let len = items.len();
            let idx: usize = first
                .parse()
                .map_err(|_| format!("`{name}` is a list: wanted a number, found `{first}`"))?;
            if idx > len {
                return Err(format!("`{name}` has {len} entries: wanted at most {len}, found {idx}"));
            }
            if idx == len {
                items.push(Value::Table(Table::new()));
            }
            if rest.is_empty() {
                items[idx] = value;
                return Ok(());
            }
            place_in(&mut items[idx], first, rest, value)
        }
        other => Err(format!("`{name}` is {}, not a table", a(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[train]\nlearning_rate = 1.0\nrows = [{ path = \"a\" }, { path = \"b\" }]\n";

    fn with(overrides: &[&str]) -> Result<Table> {
        let mut table: Table = TEXT.parse()?;
        for assignment in overrides {
            apply(&mut table, assignment)?;
        }
        Ok(table)
    }

    #[test]
    fn overrides_reach_into_tables_and_lists() {
        let table = with(&[
            "train.learning_rate=0.5",
            "train.rows.1.path=some/where.jsonl",
            "train.rows.2={path=\"c\"}",
            "model.name = m",
        ])
        .unwrap();
        assert_eq!(table["train"]["learning_rate"].as_float(), Some(0.5));
        let rows = table["train"]["rows"].as_array().unwrap();
        let paths: Vec<&str> = rows.iter().filter_map(|row| row["path"].as_str()).collect();
        assert_eq!(paths, ["a", "some/where.jsonl", "c"]);
        assert_eq!(table["model"]["name"].as_str(), Some("m"));
    }

    #[test]
    fn a_place_that_cannot_be_is_told() {
        for (assignment, wanted) in [
            ("train", "wanted `key=value`"),
            ("train..seed=1", "is no key"),
            ("train.rows.x.path=1", "wanted a number, found `x`"),
            ("train.rows.7.path=1", "has 2 entries"),
            ("train.learning_rate.x=1", "is a number, not a table"),
        ] {
            let error = with(&[assignment]).unwrap_err().to_string();
            assert!(error.contains("--set") && error.contains(wanted), "{error}");
        }
    }
}
