//! Prompts with their replies, each a text or turns.
//!
//! Two texts follow each other as they stand. Where one of the two is turns, both are: a text prompt is the user's turn, a
//! text reply the assistant's. Reply turns that begin with the prompt's turns are a whole conversation, whose prompt is
//! taken once.

use serde_json::{Map, Value};

use super::{conversation, turns};
use crate::message::wrong;
use crate::{Exchange, Message, Problem, Prompt};

/// The prompt in a column.
pub(super) fn prompt(row: &Map<String, Value>, key: &str) -> Result<Prompt, Problem> {
    match &row[key] {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        turned @ Value::Array(_) => Ok(Prompt::Turns(conversation(row, turns(turned, key)?)?)),
        other => Err(wrong(key, "a string or a list of messages", other)),
    }
}

/// The prompt in a column with the reply in another one.
pub(super) fn exchange(row: &Map<String, Value>, prompt_key: &str, reply_key: &str) -> Result<Exchange, Problem> {
    let (said, reply) = (&row[prompt_key], &row[reply_key]);
    if let (Value::String(prompt), Value::String(reply)) = (said, reply) {
        return Ok(Exchange::Text {
            prompt: prompt.clone(),
            reply: reply.clone(),
        });
    }
    let mut prompt = match said {
        Value::String(text) => vec![Message::new("user", text)],
        turned @ Value::Array(_) => turns(turned, prompt_key)?,
        other => return Err(wrong(prompt_key, "a string or a list of messages", other)),
    };
    let mut reply = self::reply(reply, reply_key)?;
    if let Some(text) = said.as_str()
        && reply.first().is_some_and(|first| first.role() != "assistant")
    {
        // A whole conversation: the prompt is its turns up to the one that the text repeats.
        let is_prompt = |turn: &Message| turn.role() == "user" && turn.text().trim() == text.trim();
        let Some(at) = reply.iter().position(is_prompt) else {
            return Err(wrong(
                reply_key,
                "the assistant's turn, or turns that begin with the prompt",
                &row[reply_key],
            ));
        };
        let rest = reply.split_off(at + 1);
        prompt = reply;
        reply = rest;
    }
    let chat = conversation(row, prompt.clone())?;
    for begun in [&prompt, &chat.messages] {
        if reply.len() > begun.len() && reply.starts_with(begun) {
            reply.drain(..begun.len());
            break;
        }
    }
    Ok(Exchange::Turns { prompt: chat, reply })
}

/// A reply as turns: a text is the assistant's.
pub(super) fn reply(value: &Value, key: &str) -> Result<Vec<Message>, Problem> {
    match value {
        Value::String(text) => Ok(vec![Message::new("assistant", text)]),
        one @ Value::Object(_) => turns(&Value::Array(vec![one.clone()]), key),
        Value::Array(_) => turns(value, key),
        other => Err(wrong(key, "a string or a list of messages", other)),
    }
}
