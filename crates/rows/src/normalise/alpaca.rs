//! Alpaca's prompt: an instruction with its input, behind a system prompt and earlier questions.

use serde_json::{Map, Value};

use super::{conversation, optional, string};
use crate::message::{is_absent, wrong};
use crate::{Chat, Message, Problem, calls};

/// The turns before the reply. The user's last turn is the instruction, and the input on the line below it.
pub(super) fn prompt(row: &Map<String, Value>) -> Result<Chat, Problem> {
    let mut messages = Vec::new();
    for (i, pair) in history(row)?.iter().enumerate() {
        let said = |side: usize| pair.get(side).and_then(Value::as_str);
        let (Some(question), Some(answer)) = (said(0), said(1)) else {
            return Err(wrong(&format!("history[{i}]"), "a pair [question, answer]", pair));
        };
        messages.extend([Message::new("user", question), Message::new("assistant", answer)]);
    }
    let instruction = string(row, "instruction")?;
    // Dolly calls its input `context`.
    let input = match optional(row, "input")? {
        Some(input) => Some(input),
        None => optional(row, "context")?,
    };
    let question = match input {
        Some(input) => format!("{instruction}\n{input}"),
        None => instruction,
    };
    messages.push(Message::new("user", &question));
    conversation(row, messages)
}

fn history(row: &Map<String, Value>) -> Result<Vec<Value>, Problem> {
    match row.get("history").map(calls::decoded) {
        Some(Value::Array(pairs)) => Ok(pairs),
        Some(other) if !is_absent(&other) => Err(wrong("history", "a list of [question, answer]", &other)),
        _ => Ok(Vec::new()),
    }
}
