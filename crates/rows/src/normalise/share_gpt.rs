//! ShareGPT's turns: `{from, value}`; a list of `{role, content}` under the same name is read as such.

use serde_json::{Value, json};

use crate::message::wrong;
use crate::{Message, Problem, calls};

/// The names that speakers have.
const SPEAKERS: &str =
    "human, user, gpt, assistant, model, chatgpt, bot, system, observation, tool, function_response, function_call";

pub(super) fn turns(value: &Value, key: &str) -> Result<Vec<Message>, Problem> {
    let items = match value {
        Value::Array(items) if !items.is_empty() => items,
        other => return Err(wrong(key, "a list of {from, value}", other)),
    };
    let says = |item: &Value, name: &str| item.get(name).is_some_and(|value| !value.is_null());
    if items.iter().all(|item| says(item, "role") && !says(item, "from")) {
        return Message::list(items, key);
    }
    let is_turn = |item: &Value| item["from"] != "system" || !item.get("value").is_some_and(Value::is_null);
    let turns = items.iter().enumerate().filter(|(_, item)| is_turn(item));
    turns.map(|(at, item)| turn(item, &format!("{key}[{at}]"))).collect()
}

fn turn(item: &Value, key: &str) -> Result<Message, Problem> {
    let field = |name: &str| item.get(name).and_then(Value::as_str);
    let (Some(from), Some(text)) = (field("from"), field("value")) else {
        return Err(wrong(key, "an object {from, value} of strings", item));
    };
    let role = match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" | "chatgpt" | "bot" | "function_call" => "assistant",
        "system" => "system",
        "observation" | "tool" | "function_response" => "tool",
        _ => {
            return Err(Problem::UnknownRole {
                key: format!("{key}.from"),
                role: from.to_owned(),
                accepted: SPEAKERS,
            });
        }
    };
    let mut message = json!({ "role": role, "content": text });
    if from == "function_call" {
        message["content"] = json!("");
        message["tool_calls"] = function_calls(text, key)?;
    }
    for name in ["weight", "train"] {
        if let Some(value) = item.get(name) {
            message[name] = value.clone();
        }
    }
    Message::from_json(&message, key)
}

/// One call or a list of calls, each `{name, arguments}`, as JSON text.
fn function_calls(text: &str, key: &str) -> Result<Value, Problem> {
    const WANTED: &str = "a function call {name, arguments} in JSON";
    let calls = calls::objects(&Value::from(text), key, WANTED)?;
    if calls.is_empty() {
        return Err(wrong(key, WANTED, &Value::from(text)));
    }
    Ok(calls
        .into_iter()
        .map(|call| json!({ "type": "function", "function": call }))
        .collect())
}
