//! A table held against the schema of the type that reads it: keys that there are not, and words that stand for nothing.
//!
//! What is left to the type itself are values of another form and conditions that its reader has.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Schema;
use toml::Value;

/// What is wrong, and where below the table: `train.0.path`; empty for the table itself.
#[derive(Debug, PartialEq)]
pub(super) struct Problem {
    pub(super) at: String,
    pub(super) what: What,
}

/// What is wrong.
#[derive(Debug, PartialEq)]
pub(super) enum What {
    /// There is no such key, but these.
    UnknownKey { known: Vec<String> },
    /// The word stands for nothing; these do.
    UnknownWord { found: String, known: Vec<String> },
}

/// The schema of `T`, with the other names of keys and words.
pub(super) fn schema_of<T: JsonSchema>() -> Schema {
    let mut schema = Schema::from(SchemaSettings::draft07().into_generator().into_root_schema_for::<T>());
    super::schema::name_aliases(&mut schema);
    schema
}

/// The keys of a table that `T` reads, first names first.
pub(super) fn keys_of<T: JsonSchema>() -> Vec<String> {
    keys(&schema_of::<T>())
}

/// The first problem of `value`, in its own order.
pub(super) fn problem<T: JsonSchema>(value: &Value) -> Option<Problem> {
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
    match kinds.iter().position(|kind| kind == found) {
        Some(at) => walk(value, forms[at], definitions, path),
        None => {
            path.push("kind".into());
            Some(What::UnknownWord {
                found: found.to_owned(),
                known: kinds,
            })
        }
    }
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
    use crate::recipe::DataConfig;
    use align_dpo_ppo::rollout::PpoConfig;
    use train::TrainConfig;

    fn of<T: JsonSchema>(text: &str) -> Option<Problem> {
        problem::<T>(&Value::Table(text.parse().unwrap()))
    }

    #[test]
    fn keys_and_words_that_there_are_not_are_found_at_any_depth() {
        let found = of::<DataConfig>("train = [{ path = 'a' }, { pth = 'b' }]").unwrap();
        assert_eq!(found.at, "train.1.pth");
        assert!(matches!(found.what, What::UnknownKey { known } if known.contains(&"path".to_owned())));
        let found = of::<TrainConfig>("optim = 'adam'").unwrap();
        let What::UnknownWord { found, known } = found.what else {
            panic!("{found:?}")
        };
        assert_eq!((found.as_str(), known[0].as_str()), ("adam", "adamw"));
        let found = of::<PpoConfig>("rewards = [{ kind = 'length', target = 3 }, { kind = 'lenght' }]").unwrap();
        assert_eq!(found.at, "rewards.1.kind");
        let found = of::<PpoConfig>("rewards = [{ kind = 'length', traget = 3 }]").unwrap();
        assert_eq!(found.at, "rewards.0.traget");
    }

    #[test]
    fn other_names_are_known_and_other_forms_are_left_to_the_type() {
        for text in [
            "drop_last = true",
            "dataloader_drop_last = true",
            "train = [{ path = 7 }]",
        ] {
            assert_eq!(of::<DataConfig>(text), None, "{text}");
        }
        for text in [
            "optim = 'adamw_torch'",
            "gradient_checkpointing = true",
            "gradient_checkpointing = 'never'",
        ] {
            assert_eq!(of::<TrainConfig>(text), None, "{text}");
        }
        assert!(keys_of::<TrainConfig>().contains(&"learning_rate".to_owned()));
    }
}
