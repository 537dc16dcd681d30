//! A table held against the schema of the type that reads it: keys that there are not, and words that stand for nothing.
//!
//! What is left to the type itself are values of another form and conditions that its reader has.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Schema;
use toml::Value;

/// What is wrong, and where below the table: `train.0.path`; empty for the table itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Problem {
    pub(crate) at: String,
    pub(crate) what: What,
}

/// What is wrong.
#[derive(Debug, PartialEq)]
pub(crate) enum What {
    /// There is no such key, but these.
    UnknownKey { known: Vec<String> },
    /// The word stands for nothing; these do.
    UnknownWord { found: String, known: Vec<String> },
}

/// The schema of `T`, with the other names of keys and words.
pub fn schema_of<T: JsonSchema>() -> Schema {
    let mut schema = Schema::from(SchemaSettings::draft07().into_generator().into_root_schema_for::<T>());
    crate::name_aliases(&mut schema);
    schema
}

/// The keys of a table that `T` reads, first names first.
pub fn keys_of<T: JsonSchema>() -> Vec<String> {
    keys(&schema_of::<T>())
}

/// The first problem of `value`, in its own order.
pub(crate) fn problem<T: JsonSchema>(value: &Value) -> Option<Problem> {
    let schema = schema_of::<T>();
    let mut path = Vec::new();
    let what = walk(value, &schema, &schema["definitions"], &mut path)?;
    Some(Problem {
        at: path.join("."),
        what,
    })
}

fn walk(value: &Value, schema: &Schema, definitions: &Schema, path: &mut Vec<String>) -> Option<What> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/definitions/");
        return walk(value, &definitions[name], definitions, path);
    }
    if let [only] = list(&schema["allOf"])
        && only["required"].is_null()
        && only["anyOf"].is_null()
    {
        return walk(value, only, definitions, path);
    }
    for several in ["anyOf", "oneOf"] {
        if let forms @ [_, ..] = list(&schema[several]) {
            return choose(value, forms, definitions, path);
        }
    }
    match value {
        Value::String(found) => {
            let known = words(schema)?;
            let is_known = known.iter().any(|word| word == found);
            (!is_known).then(|| What::UnknownWord {
                found: found.clone(),
                known,
            })
        }
        Value::Array(items) if schema["items"].is_object() => items.iter().enumerate().find_map(|(idx, item)| {
            path.push(idx.to_string());
            let found = walk(item, &schema["items"], definitions, path);
            if found.is_none() {
                path.pop();
            }
            found
        }),
        Value::Table(table)
            if schema["properties"].is_object() || schema["additionalProperties"] == Schema::Bool(false) =>
        {
            table.iter().find_map(|(key, value)| {
                path.push(key.clone());
                let found = match &schema["properties"][key] {
                    Schema::Null if schema["additionalProperties"] == Schema::Bool(false) => {
                        Some(What::UnknownKey { known: keys(schema) })
                    }
                    inner => walk(value, inner, definitions, path),
                };
                if found.is_none() {
                    path.pop();
                }
                found
            })
        }
        _ => None,
    }
}

/// One of several forms. Words are one list; tables are told apart by their `kind`; other forms are the type's own matter,
/// unless there is one alone besides null.
fn choose(value: &Value, forms: &[Schema], definitions: &Schema, path: &mut Vec<String>) -> Option<What> {
    let forms: Vec<&Schema> = forms.iter().filter(|form| form["type"] != "null").collect();
    if let [only] = forms[..] {
        return walk(value, only, definitions, path);
    }
    let all: Option<Vec<Vec<String>>> = forms.iter().map(|form| words(form)).collect();
    if let (Value::String(found), Some(all)) = (value, all) {
        let known = all.concat();
        let is_known = known.iter().any(|word| word == found);
        return (!is_known).then(|| What::UnknownWord {
            found: found.clone(),
            known,
        });
    }
    let kind = |form: &Schema| form["properties"]["kind"]["const"].as_str().map(str::to_owned);
    let kinds: Option<Vec<String>> = forms.iter().map(|form| kind(form)).collect();
    let (Value::Table(table), Some(kinds)) = (value, kinds) else {
        return None;
    };
    let found = table.get("kind")?.as_str()?;
    if let Some(at) = kinds.iter().position(|kind| kind == found) {
        return walk(value, forms[at], definitions, path);
    }
    path.push("kind".into());
    Some(What::UnknownWord {
        found: found.to_owned(),
        known: kinds,
    })
}

fn list(schema: &Schema) -> &[Schema] {
    schema.as_array().map_or(&[], Vec::as_slice)
}

fn keys(schema: &Schema) -> Vec<String> {
    let properties = schema["properties"].as_object();
    properties.map_or_else(Vec::new, |properties| properties.keys().cloned().collect())
}

/// The words of a choice; none if the schema is none of words alone.
fn words(schema: &Schema) -> Option<Vec<String>> {
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word.to_owned()]);
    }
    let words = schema["enum"].as_array()?;
    words.iter().map(|word| Some(word.as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is asked for")]
    struct Config {
        #[serde(alias = "best")]
        #[schemars(extend("x-aliases" = ["best"]))]
        optim: Option<Optim>,
        files: Option<Vec<File>>,
        rewards: Option<Vec<Reward>>,
        checkpointing: Option<Switch>,
    }

    #[derive(Deserialize, JsonSchema)]
    enum Optim {
        #[serde(rename = "adamw", alias = "adamw_torch")]
        #[schemars(extend("x-aliases" = ["adamw_torch"]))]
        Adamw,
        #[serde(rename = "sgd")]
        Sgd,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is asked for")]
    struct File {
        path: String,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is asked for")]
    enum Reward {
        Length { target: usize },
        Json { weight: f64 },
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only its schema is asked for")]
    enum Switch {
        Always(bool),
        Word(String),
    }

    fn of(text: &str) -> Option<Problem> {
        problem::<Config>(&Value::Table(text.parse().unwrap()))
    }

    #[test]
    fn keys_and_words_that_there_are_not_are_found_at_any_depth() {
        let found = of("files = [{ path = 'a' }, { pth = 'b' }]").unwrap();
        assert_eq!(found.at, "files.1.pth");
        assert!(matches!(found.what, What::UnknownKey { known } if known == ["path"]));
        let found = of("optim = 'adam'").unwrap();
        let What::UnknownWord { found, mut known } = found.what else {
            panic!("{found:?}")
        };
        known.sort();
        assert_eq!(
            (found.as_str(), known.as_slice()),
            ("adam", &["adamw", "adamw_torch", "sgd"].map(str::to_owned)[..])
        );
        assert_eq!(
            of("rewards = [{ kind = 'json', weight = 1.0 }, { kind = 'lenght' }]")
                .unwrap()
                .at,
            "rewards.1.kind"
        );
        assert_eq!(
            of("rewards = [{ kind = 'length', traget = 3 }]").unwrap().at,
            "rewards.0.traget"
        );
    }

    #[test]
    fn other_names_are_known_and_other_forms_are_left_to_the_type() {
        for text in [
            "optim = 'adamw_torch'",
            "best = 'sgd'",
            "files = [{ path = 7 }]",
            "checkpointing = true",
            "checkpointing = 'never'",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(
            keys_of::<Config>(),
            ["optim", "files", "rewards", "checkpointing", "best"]
        );
    }
}
