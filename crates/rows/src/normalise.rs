//! From a row's JSON object to its normal form, shape by shape.

mod alpaca;
mod exchange;
mod preference;
mod share_gpt;

use serde_json::{Map, Value};

use self::exchange::{exchange, prompt};
use crate::message::{is_absent, wrong};
use crate::{Chat, Exchange, Label, Message, Problem, Prompt, Row, Shape, calls, columns};

/// Reads a row of a known shape.
pub(crate) fn normalise(row: &Map<String, Value>, shape: Shape) -> Result<Row, Problem> {
    shape.check(row)?;
    match shape {
        Shape::Text => Ok(Row::Text(string(row, "text")?)),
        Shape::Labelled => Ok(Row::Labelled {
            text: string(row, "text")?,
            label: label(row)?,
        }),
        Shape::Messages => conversation(row, turns(&row["messages"], "messages")?).map(Row::Chat),
        Shape::ShareGpt => conversation(row, share_gpt::turns(&row["conversations"], "conversations")?).map(Row::Chat),
        Shape::Alpaca => {
            let reply = vec![Message::new("assistant", &string(row, "output")?)];
            Ok(Row::Prompted(Exchange::Turns {
                prompt: alpaca::prompt(row)?,
                reply,
            }))
        }
        Shape::PromptCompletion => Ok(Row::Prompted(exchange(row, "prompt", "completion")?)),
        Shape::Unpaired => {
            let desirable = match &row["label"] {
                Value::Bool(label) => *label,
                Value::String(label) if label == "true" || label == "True" => true,
                Value::String(label) if label == "false" || label == "False" => false,
                other => return Err(wrong("label", "true or false", other)),
            };
            Ok(Row::Unpaired {
                exchange: exchange(row, "prompt", "completion")?,
                desirable,
            })
        }
        Shape::PromptOnly => {
            let prompt = prompt(row, "prompt")?;
            let mut extra = row.clone();
            extra.shift_remove("prompt");
            Ok(Row::PromptOnly { prompt, extra })
        }
        Shape::ShareGptPreference
        | Shape::AlpacaPreference
        | Shape::Preference
        | Shape::ImplicitPreference
        | Shape::OpenAiPreference => preference::normalise(row, shape),
        Shape::Eval => {
            let ideal = match &row["ideal"] {
                Value::Array(several) => several.first().cloned().unwrap_or(Value::Null),
                one => one.clone(),
            };
            let Value::String(ideal) = ideal else {
                return Err(wrong("ideal", "a string or a list of strings", &row["ideal"]));
            };
            Ok(Row::Prompted(match prompt(row, "input")? {
                Prompt::Text(prompt) => Exchange::Text { prompt, reply: ideal },
                Prompt::Turns(prompt) => Exchange::Turns {
                    prompt,
                    reply: vec![Message::new("assistant", &ideal)],
                },
            }))
        }
    }
}

/// What a column asks, as a conversation: a text is the user's turn, and a system prompt, tools and documents stand
/// beside it as in every shape.
pub fn question(row: &Map<String, Value>, key: &str) -> Result<Chat, Problem> {
    let messages = match row.get(key).unwrap_or(&Value::Null) {
        Value::String(text) => vec![Message::new("user", text)],
        other => turns(other, key)?,
    };
    conversation(row, messages)
}

/// A list of turns.
fn turns(value: &Value, key: &str) -> Result<Vec<Message>, Problem> {
    match value {
        Value::Array(items) if !items.is_empty() => Message::list(items, key),
        other => Err(wrong(key, "a list of messages", other)),
    }
}

/// Turns with what stands beside them: the system prompt, tools, documents, template variables.
fn conversation(row: &Map<String, Value>, messages: Vec<Message>) -> Result<Chat, Problem> {
    Ok(Chat {
        messages: with_system(row, messages)?,
        ..setting(row)?
    })
}

/// The turns with the row's system prompt in front.
fn with_system(row: &Map<String, Value>, mut messages: Vec<Message>) -> Result<Vec<Message>, Problem> {
    let Some(column) = columns::system_column(row) else {
        return Ok(messages);
    };
    let Some(system) = row[column].as_str() else {
        return Err(wrong(column, "a string", &row[column]));
    };
    match messages.first() {
        Some(first) if matches!(first.role(), "system" | "developer") => {
            if first.text().trim() != system.trim() {
                return Err(Problem::TwoSystems {
                    column: column.to_owned(),
                });
            }
        }
        _ => messages.insert(0, Message::new("system", system)),
    }
    Ok(messages)
}

/// Tools, documents and template variables that stand beside the turns; the turns are still to come.
fn setting(row: &Map<String, Value>) -> Result<Chat, Problem> {
    let of_objects = |key: &str| -> Result<Option<Value>, Problem> {
        let items = calls::objects(row.get(key).unwrap_or(&Value::Null), key, "a list of objects")?;
        Ok((!items.is_empty()).then_some(Value::Array(items)))
    };
    let template_kwargs = match row.get("chat_template_kwargs") {
        None => Map::new(),
        Some(value) if is_absent(value) => Map::new(),
        Some(value) => match calls::decoded(value) {
            Value::Object(kwargs) => kwargs,
            other => return Err(wrong("chat_template_kwargs", "an object", &other)),
        },
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

fn string(row: &Map<String, Value>, key: &str) -> Result<String, Problem> {
    row[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| wrong(key, "a string", &row[key]))
}

fn optional(row: &Map<String, Value>, key: &str) -> Result<Option<String>, Problem> {
    match row.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(other) if !is_absent(other) => Err(wrong(key, "a string", other)),
        _ => Ok(None),
    }
}
