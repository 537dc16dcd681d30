//! Conversations as chat templates see them: free-form JSON messages, of which only role and content are checked.

use serde_json::{Map, Value};

use crate::Problem;

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
    /// assert_eq!(data::Message::new("user", "Hi").role(), "user");
    /// ```
    pub fn new(role: &str, content: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), role.into());
        fields.insert("content".to_owned(), content.into());
        Self { fields, trained: true }
    }

    /// A turn from a data file's object; `key` says where it stood, for errors.
    ///
    /// `train: false` or `weight: 0` keeps a turn out of the loss; both keys are hidden from the template.
    pub fn from_json(value: &Value, key: &str) -> Result<Self, Problem> {
        let wrong = |wanted, found: &Value| Problem::WrongKind {
            key: key.to_owned(),
            wanted,
            found: brief(found),
        };
        let Value::Object(object) = value else {
            return Err(wrong("an object with `role` and `content`", value));
        };
        let mut fields = object.clone();
        let role = match fields.get("role") {
            Some(Value::String(role)) => role.clone(),
            _ => return Err(wrong("an object with `role` and `content`", value)),
        };
        if !ROLES.split(", ").any(|known| known == role) {
            return Err(Problem::UnknownRole {
                key: format!("{key}.role"),
                role,
                accepted: ROLES,
            });
        }
        let speaks = match fields.get("content") {
            Some(Value::String(_) | Value::Array(_)) => true,
            None | Some(Value::Null) => false,
            Some(other) => {
                return Err(Problem::WrongKind {
                    key: format!("{key}.content"),
                    wanted: "a string or a list of parts",
                    found: brief(other),
                });
            }
        };
        if !speaks && !fields.keys().any(|name| name != "role" && name != "content") {
            return Err(wrong("an object with `role` and `content`", value));
        }
        let mut trained = true;
        if let Some(weight) = fields.shift_remove("weight") {
            match weight.as_f64() {
                Some(0.0) => trained = false,
                Some(1.0) => {}
                _ => {
                    return Err(Problem::WrongKind {
                        key: format!("{key}.weight"),
                        wanted: "0 or 1",
                        found: brief(&weight),
                    });
                }
            }
        }
        if let Some(train) = fields.shift_remove("train") {
            let Value::Bool(train) = train else {
                return Err(Problem::WrongKind {
                    key: format!("{key}.train"),
                    wanted: "true or false",
                    found: brief(&train),
                });
            };
            trained &= train;
        }
        Ok(Self { fields, trained })
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
    pub(crate) fn says_something(&self) -> bool {
        !self.text().trim().is_empty()
            || [
                "tool_calls",
                "function_call",
                "reasoning_content",
                "thinking",
                "reasoning",
            ]
            .iter()
            .any(|key| match self.fields.get(*key) {
                None | Some(Value::Null) => false,
                Some(Value::String(text)) => !text.is_empty(),
                Some(Value::Array(items)) => !items.is_empty(),
                Some(_) => true,
            })
    }

    pub(crate) fn with_text(&self, text: &str) -> Self {
        let mut changed = self.clone();
        match changed.fields.get_mut("content") {
            Some(Value::Array(parts)) => *parts = vec![serde_json::json!({"type": "text", "text": text})],
            _ => {
                changed.fields.insert("content".to_owned(), text.into());
            }
        }
        changed
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
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
    pub(crate) fn with_messages(&self, messages: Vec<Message>) -> Self {
        Self {
            messages,
            tools: self.tools.clone(),
            documents: self.documents.clone(),
            template_kwargs: self.template_kwargs.clone(),
        }
    }
}

/// A value shortened for an error message.
pub(crate) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
