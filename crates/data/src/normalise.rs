//! From a row's JSON object to its normal form, shape by shape.

use serde_json::{Map, Value, json};

use crate::message::brief;
use crate::{Chat, Exchange, Label, Message, Problem, Prompt, Row, Shape};

/// Reads a row of a known shape.
pub(crate) fn normalise(row: Map<String, Value>, shape: Shape) -> Result<Row, Problem> {
    shape.check(&row)?;
    match shape {
        Shape::Text => Ok(Row::Text(string(&row, "text")?)),
        Shape::Labelled => Ok(Row::Labelled {
            text: string(&row, "text")?,
            label: label(&row)?,
        }),
        Shape::Messages => {
            let chat = Chat {
                messages: turns(&row["messages"], "messages")?,
                ..setting(&row)?
            };
            Ok(Row::Chat(chat))
        }
        Shape::ShareGpt => {
            let messages = with_system(&row, share_gpt(&row["conversations"], "conversations")?)?;
            Ok(Row::Chat(Chat {
                messages,
                ..setting(&row)?
            }))
        }
        Shape::ShareGptPreference => {
            let messages = with_system(&row, share_gpt(&row["conversations"], "conversations")?)?;
            let prompt = Chat {
                messages,
                ..setting(&row)?
            };
            let reply = |key: &str| -> Result<Exchange, Problem> {
                let reply = share_gpt(&Value::Array(vec![row[key].clone()]), key)?;
                Ok(Exchange::Turns {
                    prompt: prompt.clone(),
                    reply,
                })
            };
            Ok(Row::Preference {
                chosen: reply("chosen")?,
                rejected: reply("rejected")?,
            })
        }
        Shape::Alpaca => {
            let reply = vec![Message::new("assistant", &string(&row, "output")?)];
            Ok(Row::Prompted(Exchange::Turns {
                prompt: alpaca(&row)?,
                reply,
            }))
        }
        Shape::AlpacaPreference => {
            let prompt = alpaca(&row)?;
            let reply = |key: &str| -> Result<Exchange, Problem> {
                let reply = vec![Message::new("assistant", &string(&row, key)?)];
                Ok(Exchange::Turns {
                    prompt: prompt.clone(),
                    reply,
                })
            };
            Ok(Row::Preference {
                chosen: reply("chosen")?,
                rejected: reply("rejected")?,
            })
        }
        Shape::PromptCompletion => Ok(Row::Prompted(exchange(&row, "prompt", "completion")?)),
        Shape::Unpaired => {
            let desirable = match &row["label"] {
                Value::Bool(label) => *label,
                Value::String(label) if label == "true" || label == "True" => true,
                Value::String(label) if label == "false" || label == "False" => false,
                other => return Err(wrong("label", "true or false", other)),
            };
            Ok(Row::Unpaired {
                exchange: exchange(&row, "prompt", "completion")?,
                desirable,
            })
        }
        Shape::PromptOnly => {
            let prompt = prompt(&row, "prompt")?;
            let mut extra = row;
            extra.shift_remove("prompt");
            Ok(Row::PromptOnly { prompt, extra })
        }
        // A text prompt beside whole conversations is the same prompt said twice.
        Shape::Preference if row["prompt"].is_string() && row["chosen"].is_array() => implicit(&row),
        Shape::Preference => Ok(Row::Preference {
            chosen: exchange(&row, "prompt", "chosen")?,
            rejected: exchange(&row, "prompt", "rejected")?,
        }),
        Shape::ImplicitPreference => implicit(&row),
        Shape::OpenAiPreference => {
            let Some(input) = row["input"].as_object() else {
                return Err(wrong("input", "an object with `messages`", &row["input"]));
            };
            let Some(messages) = input.get("messages") else {
                return Err(wrong("input", "an object with `messages`", &row["input"]));
            };
            let prompt = Chat {
                messages: turns(messages, "input.messages")?,
                ..setting(input)?
            };
            let reply = |key: &str| -> Result<Exchange, Problem> {
                Ok(Exchange::Turns {
                    prompt: prompt.clone(),
                    reply: turns(&row[key], key)?,
                })
            };
            Ok(Row::Preference {
                chosen: reply("preferred_output")?,
                rejected: reply("non_preferred_output")?,
            })
        }
        Shape::Eval => {
            let ideal = match &row["ideal"] {
                Value::Array(several) => several.first().cloned().unwrap_or(Value::Null),
                one => one.clone(),
            };
            let Value::String(ideal) = ideal else {
                return Err(wrong("ideal", "a string or a list of strings", &row["ideal"]));
            };
            Ok(Row::Prompted(match prompt(&row, "input")? {
                Prompt::Text(prompt) => Exchange::Text { prompt, reply: ideal },
                Prompt::Turns(prompt) => Exchange::Turns {
                    prompt,
                    reply: vec![Message::new("assistant", &ideal)],
                },
            }))
        }
    }
}

fn prompt(row: &Map<String, Value>, key: &str) -> Result<Prompt, Problem> {
    match parsed(&row[key]) {
        Value::String(text) => Ok(Prompt::Text(text)),
        turned @ Value::Array(_) => Ok(Prompt::Turns(Chat {
            messages: turns(&turned, key)?,
            ..setting(row)?
        })),
        other => Err(wrong(key, "a string or a list of messages", &other)),
    }
}

fn exchange(row: &Map<String, Value>, prompt_key: &str, reply_key: &str) -> Result<Exchange, Problem> {
    match (prompt(row, prompt_key)?, parsed(&row[reply_key])) {
        (Prompt::Text(prompt), Value::String(reply)) => Ok(Exchange::Text { prompt, reply }),
        (Prompt::Turns(prompt), Value::String(reply)) => Ok(Exchange::Turns {
            prompt,
            reply: vec![Message::new("assistant", &reply)],
        }),
        (Prompt::Turns(prompt), reply) => Ok(Exchange::Turns {
            prompt,
            reply: turns(&reply, reply_key)?,
        }),
        (Prompt::Text(_), other) => Err(wrong(reply_key, "a string, as the prompt is one", &other)),
    }
}

/// Splits the common beginning off two whole texts or conversations.
fn implicit(row: &Map<String, Value>) -> Result<Row, Problem> {
    match (parsed(&row["chosen"]), parsed(&row["rejected"])) {
        (Value::String(chosen), Value::String(rejected)) => {
            let mut common = chosen
                .char_indices()
                .zip(rejected.chars())
                .find(|((_, a), b)| a != b)
                .map_or(chosen.len().min(rejected.len()), |((at, _), _)| at);
            // A space before the first differing word belongs to that word.
            if chosen[..common].ends_with(' ') {
                common -= 1;
            }
            let part = |whole: &str| Exchange::Text {
                prompt: chosen[..common].to_owned(),
                reply: whole[common..].to_owned(),
            };
            Ok(Row::Preference {
                chosen: part(&chosen),
                rejected: part(&rejected),
            })
        }
        (chosen @ Value::Array(_), rejected) => {
            let chosen = turns(&chosen, "chosen")?;
            let rejected = turns(&rejected, "rejected")?;
            let common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            if common == 0 || common == chosen.len() || common == rejected.len() {
                return Err(wrong(
                    "rejected",
                    "turns that begin as `chosen` does and end differently",
                    &row["rejected"],
                ));
            }
            let prompt = Chat {
                messages: chosen[..common].to_vec(),
                ..setting(row)?
            };
            let part = |whole: &[Message]| Exchange::Turns {
                prompt: prompt.clone(),
                reply: whole[common..].to_vec(),
            };
            Ok(Row::Preference {
                chosen: part(&chosen),
                rejected: part(&rejected),
            })
        }
        (other, _) => Err(wrong("chosen", "a string or a list of messages", &other)),
    }
}

fn turns(value: &Value, key: &str) -> Result<Vec<Message>, Problem> {
    let items = list(value, key, "a list of messages")?;
    items
        .iter()
        .enumerate()
        .map(|(i, item)| Message::from_json(item, &format!("{key}[{i}]")))
        .collect()
}

fn share_gpt(value: &Value, key: &str) -> Result<Vec<Message>, Problem> {
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

fn with_system(row: &Map<String, Value>, mut messages: Vec<Message>) -> Result<Vec<Message>, Problem> {
    if let Some(system) = optional(row, "system")?
        && !system.is_empty()
    {
        messages.insert(0, Message::new("system", &system));
    }
    Ok(messages)
}

fn alpaca(row: &Map<String, Value>) -> Result<Chat, Problem> {
    let mut messages = with_system(row, Vec::new())?;
    if let Some(history) = row.get("history").filter(|history| !history.is_null()) {
        for (i, pair) in list(history, "history", "a list of [question, answer]")?
            .iter()
            .enumerate()
        {
            let said = |side: usize| pair.get(side).and_then(Value::as_str);
            let (Some(question), Some(answer)) = (said(0), said(1)) else {
                return Err(wrong(&format!("history[{i}]"), "a pair [question, answer]", pair));
            };
            messages.extend([Message::new("user", question), Message::new("assistant", answer)]);
        }
    }
    let instruction = string(row, "instruction")?;
    let question = match optional(row, "input")? {
        Some(input) if !input.is_empty() => format!("{instruction}\n{input}"),
        _ => instruction,
    };
    messages.push(Message::new("user", &question));
    Ok(Chat {
        messages,
        ..setting(row)?
    })
}

/// Tools, documents and template variables that stand beside the turns.
fn setting(row: &Map<String, Value>) -> Result<Chat, Problem> {
    let of_objects = |key: &str| match row.get(key).map(parsed) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => {
            Ok((!items.is_empty()).then_some(Value::Array(items)))
        }
        Some(other) => Err(wrong(key, "a list of objects", &other)),
    };
    let template_kwargs = match row.get("chat_template_kwargs").map(parsed) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(kwargs)) => kwargs,
        Some(other) => return Err(wrong("chat_template_kwargs", "an object", &other)),
    };
    Ok(Chat {
        messages: Vec::new(),
        tools: of_objects("tools")?,
        documents: of_objects("documents")?,
        template_kwargs,
    })
}

fn label(row: &Map<String, Value>) -> Result<Label, Problem> {
    match &row["label"] {
        Value::String(name) => Ok(Label::Name(name.clone())),
        Value::Bool(yes) => Ok(Label::Id(u32::from(*yes))),
        Value::Number(id) => id
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .map(Label::Id)
            .ok_or_else(|| wrong("label", "a name or a whole number from 0", &row["label"])),
        other => Err(wrong("label", "a name or a whole number from 0", other)),
    }
}

/// CSV and Parquet hold lists as JSON in a string; a string that is no list stays itself.
fn parsed(value: &Value) -> Value {
    match value.as_str().map(str::trim_start) {
        Some(text) if text.starts_with("[{") || text.starts_with("[]") || text.starts_with("{\"") => {
            serde_json::from_str(text).unwrap_or_else(|_| value.clone())
        }
        _ => value.clone(),
    }
}

fn list(value: &Value, key: &str, wanted: &'static str) -> Result<Vec<Value>, Problem> {
    match parsed(value) {
        Value::Array(items) if !items.is_empty() => Ok(items),
        other => Err(wrong(key, wanted, &other)),
    }
}

fn string(row: &Map<String, Value>, key: &str) -> Result<String, Problem> {
    row[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| wrong(key, "a string", &row[key]))
}

fn optional(row: &Map<String, Value>, key: &str) -> Result<Option<String>, Problem> {
    match row.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(key, "a string", other)),
    }
}

fn wrong(key: &str, wanted: &'static str, found: &Value) -> Problem {
    Problem::WrongKind {
        key: key.to_owned(),
        wanted,
        found: brief(found),
    }
}
