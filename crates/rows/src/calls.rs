//! Tool calls and tools as templates want them: objects, whether the file holds objects or their JSON as text.
//!
//! OpenAI's API writes a call's `arguments` as JSON text, LLaMA-Factory a row's `tools`. Neither is ever meant as text,
//! so both are decoded, once, whatever file they come from.

use serde_json::{Map, Value};

use crate::Problem;
use crate::message::{brief, is_absent, wrong};
use crate::read::strict;

/// An assistant's `tool_calls` with each call's arguments as an object; none if there is no call.
pub(crate) fn tool_calls(value: &Value, key: &str) -> Result<Option<Value>, Problem> {
    let calls = objects(value, key, "a list of tool calls")?;
    let calls: Vec<Value> = calls
        .into_iter()
        .enumerate()
        .map(|(at, call)| tool_call(call, &format!("{key}[{at}]")))
        .collect::<Result<_, _>>()?;
    Ok((!calls.is_empty()).then_some(Value::Array(calls)))
}

/// A call `{name, arguments}` with its arguments as an object.
pub(crate) fn function_call(value: &Value, key: &str) -> Result<Value, Problem> {
    let call = match decoded(value) {
        Value::Object(call) => call,
        other => return Err(wrong(key, "a function call {name, arguments}", &other)),
    };
    Ok(Value::Object(with_arguments(call, key)?))
}

/// A list of objects: as it stands, as JSON text, or with items that are JSON text; one object is a list of one.
pub(crate) fn objects(value: &Value, key: &str, wanted: &'static str) -> Result<Vec<Value>, Problem> {
    if is_absent(value) {
        return Ok(Vec::new());
    }
    let items = match decoded(value) {
        Value::Array(items) => items,
        one @ Value::Object(_) => vec![one],
        other => return Err(wrong(key, wanted, &other)),
    };
    items
        .iter()
        .enumerate()
        .map(|(at, item)| match decoded(item) {
            object @ Value::Object(_) => Ok(object),
            other => Err(wrong(&format!("{key}[{at}]"), "an object", &other)),
        })
        .collect()
}

/// The value that JSON text stands for; a text that is no list or object of JSON stays itself.
pub(crate) fn decoded(value: &Value) -> Value {
    let text = value
        .as_str()
        .map(str::trim)
        .filter(|text| text.starts_with(['[', '{']));
    text.and_then(|text| strict::value(text).ok())
        .unwrap_or_else(|| value.clone())
}

fn tool_call(call: Value, key: &str) -> Result<Value, Problem> {
    let Value::Object(mut call) = call else {
        return Err(wrong(key, "a tool call", &call));
    };
    // Parquet pads a call with the fields that others of its column have.
    call.retain(|_, value| !value.is_null());
    match call.get("function") {
        Some(function) => {
            let function = function_call(function, &format!("{key}.function"))?;
            call.insert("function".to_owned(), function);
            Ok(Value::Object(call))
        }
        None => Ok(Value::Object(with_arguments(call, key)?)),
    }
}

fn with_arguments(mut call: Map<String, Value>, key: &str) -> Result<Map<String, Value>, Problem> {
    if !call.get("name").is_some_and(Value::is_string) {
        return Err(wrong(key, "a call with the function's `name`", &Value::Object(call)));
    }
    let key = format!("{key}.arguments");
    let arguments = match call.get("arguments") {
        None => Value::Object(Map::new()),
        Some(value) if is_absent(value) => Value::Object(Map::new()),
        Some(object @ Value::Object(_)) => object.clone(),
        Some(Value::String(text)) => match strict::value(text) {
            Ok(object @ Value::Object(_)) => object,
            Ok(other) => return Err(wrong(&key, "a JSON object", &other)),
            Err(error) => {
                return Err(Problem::WrongKind {
                    key,
                    wanted: "a JSON object",
                    found: format!("{} ({error})", brief(&Value::from(text.as_str()))),
                });
            }
        },
        Some(other) => return Err(wrong(&key, "a JSON object", other)),
    };
    call.insert("arguments".to_owned(), arguments);
    Ok(call)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_become_an_object_however_they_are_written() {
        let wanted = json!([{"type": "function", "function": {"name": "f", "arguments": {"city": "Paris"}}}]);
        let text = r#"{"city": "Paris"}"#;
        for calls in [
            wanted.clone(),
            json!([{"type": "function", "function": {"name": "f", "arguments": text}}]),
            json!({"type": "function", "function": {"name": "f", "arguments": text}}),
            json!(wanted.to_string()),
            json!([wanted[0].to_string()]),
            json!([{"id": null, "type": "function", "function": json!({"name": "f", "arguments": text}).to_string()}]),
        ] {
            assert_eq!(tool_calls(&calls, "tool_calls"), Ok(Some(wanted.clone())), "{calls}");
        }
        for nothing in [json!(null), json!([]), json!("")] {
            assert_eq!(tool_calls(&nothing, "tool_calls"), Ok(None));
        }
    }

    #[test]
    fn absent_arguments_are_none() {
        for arguments in [json!(null), json!(""), json!({})] {
            let call = json!({"name": "f", "arguments": arguments});
            let wanted = json!({"name": "f", "arguments": {}});
            assert_eq!(function_call(&call, "call"), Ok(wanted.clone()));
            assert_eq!(tool_calls(&json!([call]), "tool_calls"), Ok(Some(json!([wanted]))));
        }
    }

    #[test]
    fn arguments_that_are_no_object_are_refused_by_name() {
        let twice = json!(json!({"city": "Paris"}).to_string()).to_string();
        for (arguments, found) in [
            (json!("Paris"), "found \"Paris\" (expected value"),
            (json!("{\"a\": 1, \"a\": 2}"), "the key `a` twice"),
            (json!(twice), "found \"{"),
            (json!([1]), "found [1]"),
            (json!("[1]"), "found [1]"),
            (json!(5), "found 5"),
        ] {
            let calls = json!([{"function": {"name": "f", "arguments": arguments}}]);
            let problem = tool_calls(&calls, "tool_calls").unwrap_err().to_string();
            let wanted = "`tool_calls[0].function.arguments`: wanted a JSON object";
            assert!(problem.contains(wanted) && problem.contains(found), "{problem}");
        }
    }
}
