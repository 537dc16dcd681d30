//! What a value of a JSON Schema is called in a recipe's reference.

use serde_json::Value;

/// What stands for a value of this schema, as words; `root` has the definitions.
pub(crate) fn of(root: &Value, schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/definitions/");
        return of(root, &root["definitions"][name]);
    }
    if let [only] = schema["allOf"].as_array().map_or(&[][..], Vec::as_slice) {
        return of(root, only);
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(forms) = schema[several].as_array() {
            return one_of(root, forms);
        }
    }
    if let Some(names) = names(schema) {
        return names.join(", ");
    }
    match &schema["type"] {
        Value::Array(types) => {
            let plain = types.iter().find(|one| *one != "null").cloned().unwrap_or_default();
            let mut schema = schema.clone();
            schema["type"] = plain;
            of(root, &schema)
        }
        Value::String(name) => match name.as_str() {
            "string" => "text".into(),
            "boolean" => "true or false".into(),
            "number" => "number".into(),
            "integer" => "whole number".into(),
            "array" => format!("list of {}", of(root, &schema["items"])),
            _ => table(root, schema),
        },
        _ => "a value".into(),
    }
}

fn table(root: &Value, schema: &Value) -> String {
    match schema["properties"].as_object() {
        Some(keys) => {
            let names: Vec<String> = keys.keys().map(|name| format!("`{name}`")).collect();
            format!("table: {}", names.join(", "))
        }
        None => format!("table: text to {}", of(root, &schema["additionalProperties"])),
    }
}

/// One of several forms: words that may stand there, else each form in turn.
fn one_of(root: &Value, forms: &[Value]) -> String {
    let forms: Vec<&Value> = forms.iter().filter(|form| form["type"] != "null").collect();
    let kinds: Vec<String> = forms
        .iter()
        .filter_map(|form| Some(format!("`{}`", form["properties"]["kind"]["const"].as_str()?)))
        .collect();
    if !kinds.is_empty() {
        return format!("table with `kind`: {}", kinds.join(", "));
    }
    let all: Option<Vec<String>> = forms
        .iter()
        .map(|form| names(form).map(|names| names.join(", ")))
        .collect();
    if let Some(all) = all {
        return all.join(", ");
    }
    let each: Vec<String> = forms.iter().map(|form| of(root, form)).collect();
    each.join(" or ")
}

/// The words of a choice: the first name of each; none if it is no choice.
fn names(schema: &Value) -> Option<Vec<String>> {
    let quoted = |value: &Value| match value {
        Value::String(text) => format!("`{text}`"),
        other => other.to_string(),
    };
    if let Some(word) = schema.get("const") {
        return Some(vec![quoted(word)]);
    }
    let words = schema["enum"].as_array()?;
    // What has a title is one word under several names.
    match &schema["title"] {
        Value::Null => Some(words.iter().map(quoted).collect()),
        word => Some(vec![quoted(word)]),
    }
}
