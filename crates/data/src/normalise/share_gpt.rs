//! ShareGPT's turns: `{from, value}`.

use serde_json::{Value, json};

use super::{list, wrong};
use crate::{Message, Problem};

pub(super) fn turns(value: &Value, key: &str) -> Result<Vec<Message>, Problem> {
    let items = list(value, key, "a list of {from, value}")?;
    let turn = |(i, item): (usize, &Value)| {
        let key = format!("{key}[{i}]");
        let field = |name: &str| item.get(name).and_then(Value::as_str);
        let (Some(from), Some(text)) = (field("from"), field("value")) else {
            return Err(wrong(&key, "an object {from, value} of strings", item));
        };
        let role = match from {
            "human" | "user" => "user",
            "gpt" | "assistant" | "model" | "chatgpt" | "bot" => "assistant",
            "system" => "system",
            "observation" | "tool" | "function_response" => "tool",
            "function_call" => return function_call(&key, text),
            _ => {
                return Err(Problem::UnknownRole {
                    key: format!("{key}.from"),
                    role: from.to_owned(),
                    accepted: "human, user, gpt, assistant, model, chatgpt, bot, system, observation, tool, function_response, function_call",
                });
            }
        };
        let mut message = Message::new(role, text);
        for name in ["weight", "train"] {
            if let Some(value) = item.get(name) {
                message.set(name, value.clone());
            }
        }
        Message::from_json(&Value::Object(message.fields().clone()), &key)
    };
    items.iter().enumerate().map(turn).collect()
}

/// One call or a list of calls, each `{name, arguments}`.
fn function_call(key: &str, text: &str) -> Result<Message, Problem> {
    let calls = match serde_json::from_str(text) {
        Ok(Value::Array(calls)) => calls,
        Ok(call @ Value::Object(_)) => vec![call],
        _ => {
            return Err(wrong(
                key,
                "a function call {name, arguments} in JSON",
                &Value::from(text),
            ));
        }
    };
    let calls: Vec<Value> = calls
        .into_iter()
        .map(|call| json!({"type": "function", "function": call}))
        .collect();
    let mut message = Message::new("assistant", "");
    message.set("tool_calls", Value::Array(calls));
    Ok(message)
}
