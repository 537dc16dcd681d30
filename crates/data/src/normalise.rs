//! From a row's JSON object to its normal form, shape by shape.

mod preference;
mod share_gpt;

use serde_json::{Map, Value};

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
            let messages = with_system(&row, share_gpt::turns(&row["conversations"], "conversations")?)?;
            Ok(Row::Chat(Chat {
                messages,
                ..setting(&row)?
            }))
        }
        Shape::Alpaca => {
            let reply = vec![Message::new("assistant", &string(&row, "output")?)];
            Ok(Row::Prompted(Exchange::Turns {
                prompt: alpaca(&row)?,
                reply,
            }))
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
        Shape::ShareGptPreference
        | Shape::AlpacaPreference
        | Shape::Preference
        | Shape::ImplicitPreference
        | Shape::OpenAiPreference => preference::normalise(&row, shape),
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

fn turns(value: &Value, key: &str) -> Result<Vec<Message>, Problem> {
    let items = list(value, key, "a list of messages")?;
    items
        .iter()
        .enumerate()
        .map(|(i, item)| Message::from_json(item, &format!("{key}[{i}]")))
        .collect()
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
