//! Whether a chat template shows what a conversation says.
//!
//! A template that knows no tool calls writes an empty turn where one stands, and one that walks parts may write nothing
//! for a plain text: what is then learnt is not what the row says. Templates trim, escape and quote, and short texts stand
//! by chance in a header, so each text and each call is looked for by a mark in its place.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::template::Ending;
use crate::{Chat, ChatTemplate, Message, Problem, SpecialTokens};
use rows::is_absent;

const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The conversation as the template reads it: as it is, else with its contents as lists of parts, or as texts, or with the
/// arguments of its calls as JSON text.
///
/// A template that walks parts shows nothing of a plain text, and one that joins texts prints a list of parts as Python
/// would, or fails, as it does where arguments are an object (`DeepSeek` V3's); Transformers leaves it to the caller to
/// know.
pub(crate) fn in_form<'c>(
    chat: &'c Chat,
    template: &ChatTemplate,
    special: &SpecialTokens,
    ending: Ending,
) -> Result<Cow<'c, Chat>, Problem> {
    let fits = |chat: &Chat| {
        let text = template.render(chat, special, ending)?;
        let printed = |message: &Message| message.has_parts() && text.contains("'type': 'text'");
        if let Some(idx) = chat.messages.iter().position(printed) {
            return Err(Problem::NotShown {
                template: template.name().to_owned(),
                what: format!("the parts of message {idx} as text"),
            });
        }
        check(chat, &text, template, special)
    };
    let Err(problem) = fits(chat) else {
        return Ok(Cow::Borrowed(chat));
    };
    for changed in [Message::with_parts, Message::with_plain_text, with_arguments_as_text] {
        let other = chat.with_messages(chat.messages.iter().map(changed).collect());
        if other != *chat && fits(&other).is_ok() {
            return Ok(Cow::Owned(other));
        }
    }
    Err(problem)
}

/// Refuses a conversation of which the rendering `text` leaves out a turn's text or a tool call.
fn check(chat: &Chat, text: &str, template: &ChatTemplate, special: &SpecialTokens) -> Result<(), Problem> {
    let not_shown = |what: String| Problem::NotShown {
        template: template.name().to_owned(),
        what,
    };
    let says = |message: &Message| !message.text().trim().is_empty();
    if chat.messages.iter().any(says) {
        let marked = |(idx, message): (usize, &Message)| match says(message) {
            true => message.with_text(&mark(idx)),
            false => message.clone(),
        };
        let messages = chat.messages.iter().enumerate().map(marked).collect();
        let rendered = template.render(&chat.with_messages(messages), special, Ending::Closed);
        for (idx, message) in chat.messages.iter().enumerate().filter(|(_, message)| says(message)) {
            // A template that refuses the marks says nothing about the text.
            if rendered.as_ref().is_ok_and(|marked| !marked.contains(&mark(idx))) {
                return Err(not_shown(format!("the text of message {idx} (`{}`)", message.role())));
            }
        }
    }
    if chat.messages.iter().all(|message| names(message).is_empty()) {
        return Ok(());
    }
    let marked = |(idx, message): (usize, &Message)| with_names(message, &mark(idx));
    let messages = chat.messages.iter().enumerate().map(marked).collect();
    let rendered = template.render(&chat.with_messages(messages), special, Ending::Closed);
    for (idx, message) in chat.messages.iter().enumerate() {
        for (at, name) in names(message).iter().enumerate() {
            let shown = match &rendered {
                Ok(text) => text.contains(&format!("{}{at}.", mark(idx))),
                Err(_) => text.contains(name),
            };
            if !shown {
                return Err(not_shown(format!("the tool call `{name}` of message {idx}")));
            }
        }
    }
    Ok(())
}

/// What else of a conversation the rendering leaves out, as a remark each.
pub(crate) fn left_out(chat: &Chat, template: &ChatTemplate, special: &SpecialTokens) -> Vec<String> {
    let mut found = Vec::new();
    let reasons = |message: &Message| {
        REASONING
            .iter()
            .find_map(|key| message.fields().get(*key)?.as_str())
            .map(str::to_owned)
    };
    let reasoned: Vec<String> = chat.messages.iter().filter_map(reasons).collect();
    if chat.tools.is_none() && chat.documents.is_none() && reasoned.is_empty() {
        return found;
    }
    let Ok(text) = template.render(chat, special, Ending::Closed) else {
        return found;
    };
    let mut without = |what: &str, chat: &Chat| {
        if template
            .render(chat, special, Ending::Closed)
            .is_ok_and(|other| other == text)
        {
            found.push(format!("with {what} that the chat template does not show"));
        }
    };
    if chat.tools.is_some() {
        without(
            "`tools`",
            &Chat {
                tools: None,
                ..chat.clone()
            },
        );
    }
    if chat.documents.is_some() {
        without(
            "`documents`",
            &Chat {
                documents: None,
                ..chat.clone()
            },
        );
    }
    if reasoned.iter().any(|reasoning| !text.contains(reasoning.trim())) {
        found.push("with reasoning that the chat template does not show".to_owned());
    }
    found
}

/// The turn with the arguments of its calls as JSON text.
fn with_arguments_as_text(message: &Message) -> Message {
    let mut changed = message.clone();
    for key in ["tool_calls", "function_call"] {
        let Some(mut calls) = message.fields().get(key).cloned() else {
            continue;
        };
        let write = |call: &mut Value| {
            let call = match call.get_mut("function") {
                Some(function) => function,
                None => call,
            };
            if call["arguments"].is_object() {
                call["arguments"] = json!(dumps(&call["arguments"]));
            }
        };
        match &mut calls {
            Value::Array(calls) => calls.iter_mut().for_each(write),
            one => [one].into_iter().for_each(write),
        }
        changed.set(key, calls);
    }
    changed
}

/// JSON with the separators of Python's `json.dumps`, as APIs write arguments.
fn dumps(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(dumps).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| format!("{}: {}", json!(key), dumps(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// The names of the functions that a turn calls.
fn names(message: &Message) -> Vec<String> {
    let fields = message.fields();
    let name = |call: &Value| {
        let named = call["function"]["name"].as_str().or_else(|| call["name"].as_str());
        named.map(str::to_owned)
    };
    let calls = fields.get("tool_calls").and_then(Value::as_array);
    let legacy = fields.get("function_call").filter(|call| !is_absent(call));
    calls.into_iter().flatten().chain(legacy).filter_map(name).collect()
}

/// The turn with other names of functions: `name0.`, `name1.`, … in order.
fn with_names(message: &Message, name: &str) -> Message {
    let mut changed = message.clone();
    let mut count = 0;
    let mut rename = |call: &mut Value| {
        let call = match call.get_mut("function") {
            Some(function) => function,
            None => call,
        };
        if call["name"].is_string() {
            call["name"] = json!(format!("{name}{count}."));
            count += 1;
        }
    };
    for key in ["tool_calls", "function_call"] {
        let Some(mut calls) = message.fields().get(key).cloned() else {
            continue;
        };
        match &mut calls {
            Value::Array(calls) => calls.iter_mut().for_each(&mut rename),
            one @ Value::Object(_) => rename(one),
            _ => continue,
        }
        changed.set(key, calls);
    }
    changed
}

fn mark(idx: usize) -> String {
    format!("SOUGHT_{idx}_")
}
