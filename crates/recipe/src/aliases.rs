//! Other names of keys and words, as types note them with `#[schemars(extend("x-aliases" = ["name"]))]`: serde reads them,
//! and a schema that is made of the type alone does not know them.

use serde_json::{Map, Value, json};

/// Other names of a key or of a value, as the types note them.
const ALIASES: &str = "x-aliases";

/// Makes keys and values of the schema of the other names that the types note.
pub fn name_aliases(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(name_aliases),
        Value::Object(object) => {
            if let (Some(word), Some(Value::Array(names))) = (object.get("const").cloned(), object.remove(ALIASES)) {
                object.remove("const");
                object.insert("title".into(), word.clone());
                let all: Vec<Value> = std::iter::once(word).chain(names).collect();
                object.insert("enum".into(), all.into());
            }
            name_keys(object);
            object.values_mut().for_each(name_aliases);
        }
        _ => {}
    }
}

/// The same of the keys of one table. A key that must be given may be given under any of its names.
fn name_keys(object: &mut Map<String, Value>) {
    let mut others: Vec<(String, Vec<String>, Value)> = Vec::new();
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for (key, value) in properties.iter_mut() {
            let names = value.as_object_mut().and_then(|value| value.remove(ALIASES));
            if let Some(Value::Array(names)) = names {
                let names = names.iter().filter_map(|name| Some(name.as_str()?.to_owned()));
                others.push((key.clone(), names.collect(), value.clone()));
            }
        }
        for (key, names, value) in &others {
            for name in names {
                let mut value = value.clone();
                value["description"] = json!(format!("Another name of `{key}`."));
                properties.insert(name.clone(), value);
            }
        }
    }
    let mut choices = Vec::new();
    if let Some(Value::Array(required)) = object.get_mut("required") {
        for (key, names, _) in &others {
            if let Some(at) = required.iter().position(|one| one == key) {
                required.remove(at);
                let names = std::iter::once(key).chain(names);
                let each: Vec<Value> = names.map(|name| json!({ "required": [name] })).collect();
                choices.push(json!({ "anyOf": each }));
            }
        }
    }
    if !choices.is_empty() {
        object.insert("allOf".into(), choices.into());
    }
}
