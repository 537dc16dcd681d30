//! Conversations as chat templates see them: free-form JSON messages, of which only role and content are checked.

use serde_json::{Map, Value};

use crate::{Problem, calls, columns};

/// What an assistant's turn says beside its content.
const SPEAKING: [&str; 5] = [
    "tool_calls",
    "function_call",
    "reasoning_content",
    "thinking",
    "reasoning",
];

/// Roles that a message may have.
pub(crate) const ROLES: &str = "system, developer, user, assistant, tool, function, ipython";

/// One turn of a conversation, with every key its file gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    fields: Map<String, Value>,
    trained: bool,
}

/// A conversation and what the template may show beside it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chat {
    /// The turns, in order.
    pub messages: Vec<Message>,
    /// JSON schemas of the tools, a list.
    pub tools: Option<Value>,
    /// Documents for retrieval, a list of `{title, text}`.
    pub documents: Option<Value>,
    /// Further variables of the template, e.g. `enable_thinking`.
    pub template_kwargs: Map<String, Value>,
}

impl Message {
    /// A turn of plain text.
    ///
    /// ```
    /// assert_eq!(rows::Message::new("user", "Hi").role(), "user");
    /// ```
    pub fn new(role: &str, content: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), role.into());
        fields.insert("content".to_owned(), content.into());
        Self { fields, trained: true }
    }

    /// A turn from a data file's object; `key` says where it stood, for errors.
    ///
    /// A null field is absent. `train: false` or `weight: 0` keeps a turn out of the loss; both keys are hidden from the
    /// template. The arguments of tool calls become objects, and parts of the content that are no text are refused.
    pub fn from_json(value: &Value, key: &str) -> Result<Self, Problem> {
        let Value::Object(object) = value else {
            return Err(wrong(key, "an object with `role` and `content`", value));
        };
        let present = object.iter().filter(|(_, value)| !value.is_null());
        let mut fields: Map<String, Value> = present.map(|(name, value)| (name.clone(), value.clone())).collect();
        let role = match fields.get("role") {
            Some(Value::String(role)) => role.clone(),
            _ => return Err(wrong(key, "an object with `role` and `content`", value)),
        };
        if !ROLES.split(", ").any(|known| known == role) {
            return Err(Problem::UnknownRole {
                key: format!("{key}.role"),
                role,
                accepted: ROLES,
            });
        }
        if let Some((name, _)) = fields
            .iter()
            .find(|(name, value)| columns::is_media(name) && !is_absent(value))
        {
            return Err(Problem::NotText {
                key: format!("{key}.{name}"),
                found: "a field of pictures, sounds or videos".to_owned(),
            });
        }
        for name in ["tool_calls", "function_call"] {
            if let Some(calls) = fields.get(name) {
                let key = format!("{key}.{name}");
                let calls = match (name, is_absent(calls)) {
                    (_, true) => None,
                    ("tool_calls", _) => calls::tool_calls(calls, &key)?,
                    _ => Some(calls::function_call(calls, &key)?),
                };
                match calls {
                    Some(calls) => fields.insert(name.to_owned(), calls),
                    None => fields.shift_remove(name),
                };
            }
        }
        match fields.get("content") {
            Some(Value::String(_)) => {}
            Some(Value::Array(parts)) if !parts.is_empty() => {
                let parts = text_parts(parts, &format!("{key}.content"))?;
                fields.insert("content".to_owned(), parts);
            }
            Some(Value::Array(_)) => drop(fields.insert("content".to_owned(), "".into())),
            None if object.contains_key("content") || SPEAKING.iter().any(|name| fields.contains_key(*name)) => {
                fields.insert("content".to_owned(), "".into());
            }
            None => return Err(wrong(key, "an object with `role` and `content`", value)),
            Some(other) => return Err(wrong(&format!("{key}.content"), "a string or a list of parts", other)),
        }
        let trained = trained(&mut fields, key)?;
        Ok(Self { fields, trained })
    }

    /// The turns of a list from a data file; a system turn whose content is null is absent.
    pub(crate) fn list(items: &[Value], key: &str) -> Result<Vec<Self>, Problem> {
        let is_turn = |item: &Value| {
            let system = matches!(item["role"].as_str(), Some("system" | "developer"));
            !(system && item.get("content").is_some_and(Value::is_null))
        };
        let turns = items.iter().enumerate().filter(|(_, item)| is_turn(item));
        turns
            .map(|(at, item)| Self::from_json(item, &format!("{key}[{at}]")))
            .collect()
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        self.fields.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// The turn's text; of a list of parts, their texts joined; empty where there is none.
    pub fn text(&self) -> String {
        match self.fields.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts
                .iter()
                .filter_map(|part| part.get("text").and_then(Value::as_str))
                .collect(),
            _ => String::new(),
        }
    }

    /// Whether the data wants this turn in the loss, if it is the assistant's.
    pub fn trained(&self) -> bool {
        self.trained
    }

    /// The turn as the template sees it.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Whether there is something to learn: text, or a tool call, or reasoning.
    pub fn says_something(&self) -> bool {
        let says = |key: &&str| self.fields.get(*key).is_some_and(|value| !is_absent(value));
        !self.text().trim().is_empty() || SPEAKING.iter().any(says)
    }

    /// The turn with another text as its content.
    #[must_use]
    pub fn with_text(&self, text: &str) -> Self {
        let mut changed = self.clone();
        match changed.fields.get_mut("content") {
            Some(Value::Array(parts)) => *parts = vec![serde_json::json!({"type": "text", "text": text})],
            _ => {
                changed.fields.insert("content".to_owned(), text.into());
            }
        }
        changed
    }

    /// Whether the content is a list of parts.
    pub fn has_parts(&self) -> bool {
        self.fields.get("content").is_some_and(Value::is_array)
    }

    /// The turn with its content as a list of one part.
    #[must_use]
    pub fn with_parts(&self) -> Self {
        match self.fields.get("content") {
            Some(Value::String(text)) if !text.is_empty() => {
                let mut changed = self.clone();
                changed.set("content", serde_json::json!([{ "type": "text", "text": text }]));
                changed
            }
            _ => self.clone(),
        }
    }

    /// The turn with its content as one text.
    #[must_use]
    pub fn with_plain_text(&self) -> Self {
        let mut changed = self.clone();
        if self.has_parts() {
            changed.set("content", self.text().into());
        }
        changed
    }

    /// Sets a field of the turn.
    pub fn set(&mut self, key: &str, value: Value) {
        self.fields.insert(key.to_owned(), value);
    }
}

impl Chat {
    /// A conversation without tools or documents.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }

    /// The same setting with other turns.
    #[must_use]
    pub fn with_messages(&self, messages: Vec<Message>) -> Self {
        Self {
            messages,
            tools: self.tools.clone(),
            documents: self.documents.clone(),
            template_kwargs: self.template_kwargs.clone(),
        }
    }
}

/// Takes `weight` and `train` out of a turn's fields: whether it is in the loss.
fn trained(fields: &mut Map<String, Value>, key: &str) -> Result<bool, Problem> {
    let mut trained = true;
    if let Some(weight) = fields.shift_remove("weight").filter(|weight| !is_absent(weight)) {
        match weight.as_f64() {
            Some(0.0) => trained = false,
            Some(1.0) => {}
            _ => return Err(wrong(&format!("{key}.weight"), "0 or 1", &weight)),
        }
    }
    if let Some(train) = fields.shift_remove("train").filter(|train| !is_absent(train)) {
        let Value::Bool(train) = train else {
            return Err(wrong(&format!("{key}.train"), "true or false", &train));
        };
        trained &= train;
    }
    Ok(trained)
}

/// A content's parts, all of them text: `"…"` or `{"type": "text", "text": "…"}`.
fn text_parts(parts: &[Value], key: &str) -> Result<Value, Problem> {
    let part = |(at, part): (usize, &Value)| {
        let key = format!("{key}[{at}]");
        if part.is_string() {
            return Ok(serde_json::json!({ "type": "text", "text": part }));
        }
        let kind = part.get("type").filter(|kind| !kind.is_null());
        let is_text = kind.is_none_or(|kind| matches!(kind.as_str(), Some("text" | "input_text" | "output_text")));
        match part.get("text") {
            Some(text @ Value::String(_)) if is_text => Ok(serde_json::json!({ "type": "text", "text": text })),
            _ if is_text => Err(wrong(&key, "a part {type: \"text\", text}", part)),
            _ => Err(Problem::NotText {
                key,
                found: format!("a part of type `{}`", kind.and_then(Value::as_str).unwrap_or("?")),
            }),
        }
    };
    parts.iter().enumerate().map(part).collect()
}

/// Whether a value counts as none: null, an empty text, list or object.
pub fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

pub(crate) fn wrong(key: &str, wanted: &'static str, found: &Value) -> Problem {
    Problem::WrongKind {
        key: key.to_owned(),
        wanted,
        found: brief(found),
    }
}

/// A value shortened for an error message.
pub fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
