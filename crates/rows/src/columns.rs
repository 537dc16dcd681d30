//! Columns beside those that a row's shape reads: which of them may hold a part of the prompt.
//!
//! Text of the prompt must not vanish, so a column whose name or content says that it may be some is used, refused, or
//! named in a remark. A column whose texts stand in the columns that are read, as `UltraChat`'s `prompt` stands in its
//! `messages`, is no loss.

use serde_json::{Map, Value};

use crate::message::is_absent;
use crate::{Exchange, Message, Problem, Prompt, Row, Shape};

/// Columns that are the system turn of a conversation; the first that says something is taken.
pub(crate) const SYSTEM: [&str; 3] = ["system", "system_prompt", "system_message"];

/// What a shape of conversations reads beside its own keys.
const SETTING: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

/// Columns that verbs read for themselves.
const ELSEWHERE: [&str; 2] = ["adapter", "margin"];

/// Names, without `_`, `-` and capitals, of columns that often hold a part of the prompt.
const OF_PROMPTS: [&str; 38] = [
    "article",
    "background",
    "context",
    "contexts",
    "conversation",
    "conversations",
    "dialog",
    "dialogue",
    "document",
    "documents",
    "functions",
    "history",
    "human",
    "hypothesis",
    "input",
    "inputs",
    "instruction",
    "instructions",
    "messages",
    "paragraph",
    "passage",
    "passages",
    "premise",
    "problem",
    "prompt",
    "query",
    "question",
    "sourcetext",
    "story",
    "sysprompt",
    "system",
    "systemmessage",
    "systemprompt",
    "text",
    "tools",
    "user",
    "usermessage",
    "userprompt",
];

/// Of these, names of columns that may show a whole row as one text.
const RENDERINGS: [&str; 5] = ["conversation", "dialog", "dialogue", "prompt", "text"];

/// Names of columns that hold pictures, sounds or videos.
const OF_MEDIA: [&str; 8] = [
    "audio",
    "audios",
    "image",
    "images",
    "pixelvalues",
    "speech",
    "video",
    "videos",
];

/// Names of columns that say something of a row and are never a part of its prompt.
const OF_METADATA: [&str; 22] = [
    "annotator",
    "category",
    "categories",
    "comment",
    "dataset",
    "date",
    "generator",
    "id",
    "lang",
    "language",
    "license",
    "model",
    "name",
    "rating",
    "reason",
    "score",
    "source",
    "split",
    "subset",
    "tags",
    "type",
    "url",
];

/// Names of columns that hold replies.
const OF_REPLIES: [&str; 8] = [
    "answer",
    "response",
    "output",
    "completion",
    "reply",
    "target",
    "solution",
    "answers",
];

/// A column that a row's shape does not read although it holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Its name is that of a part of a prompt, and its text stands nowhere else.
    OfPrompt,
    /// Pictures, sounds or videos.
    Media,
    /// A text of several words, or with the name of a reply, that is no known metadata.
    Words,
    /// Anything else.
    Other,
}

/// The columns of a row that nothing reads, though they hold something that is nowhere else in the row.
pub(crate) fn unread<'r>(raw: &'r Map<String, Value>, shape: Shape, row: &Row) -> Vec<(&'r str, Unread)> {
    let turns = has_turns(row);
    let candidates = raw.iter().filter(|(name, value)| {
        !(is_absent(value) || reads(shape, turns, name, raw) || ELSEWHERE.contains(&name.as_str()))
    });
    let mut said = None;
    let mut found = Vec::new();
    for (name, value) in candidates {
        let plain = plain(name);
        let kind = if is_media(name) {
            Unread::Media
        } else if OF_PROMPTS.contains(&plain.as_str()) {
            Unread::OfPrompt
        } else if !is_metadata(&plain)
            && value
                .as_str()
                .is_some_and(|text| text.trim().contains(char::is_whitespace) || OF_REPLIES.contains(&plain.as_str()))
        {
            Unread::Words
        } else {
            Unread::Other
        };
        if matches!(kind, Unread::OfPrompt | Unread::Words) {
            let said = said.get_or_insert_with(|| texts_of(row));
            let repeats = |text: &&str| said.iter().any(|whole| whole.contains(text.trim()));
            let renders = |text: &&str| {
                RENDERINGS.contains(&plain.as_str()) && said.iter().all(|part| text.contains(part.trim()))
            };
            let texts = texts(value);
            let says_nothing_new = texts.iter().all(|text| repeats(text) || renders(text));
            // A list of tools has no text of its own, and is not repeated anywhere.
            if says_nothing_new && !(texts.is_empty() && kind == Unread::OfPrompt && !value.is_string()) {
                continue;
            }
        }
        found.push((name.as_str(), kind));
    }
    found
}

/// Refuses a row of which a part of the prompt, or what it shows, would be lost.
pub(crate) fn refuse(shape: Shape, row: &Row, unread: &[(&str, Unread)]) -> Result<(), Problem> {
    let names = |kinds: &[Unread]| -> Vec<String> {
        let found = unread.iter().filter(|(_, kind)| kinds.contains(kind));
        found.map(|(name, _)| (*name).to_owned()).collect()
    };
    if let Some(name) = names(&[Unread::Media]).first() {
        return Err(Problem::NotText {
            key: name.clone(),
            found: "a column of pictures, sounds or videos".to_owned(),
        });
    }
    let guessed = matches!(
        row,
        Row::Preference {
            chosen: Exchange::Text { .. },
            ..
        }
    ) && shape == Shape::ImplicitPreference;
    if guessed {
        let columns = names(&[Unread::OfPrompt, Unread::Words]);
        if !columns.is_empty() {
            return Err(Problem::PromptElsewhere { columns });
        }
    }
    match names(&[Unread::OfPrompt]).into_iter().find(|name| is_system(name)) {
        Some(column) if !has_turns(row) => Err(Problem::SystemBesideText {
            column,
            shape: shape.name().to_owned(),
            advice: match shape {
                Shape::PromptCompletion => "columns = { instruction = \"prompt\", output = \"completion\" }",
                Shape::Preference => "columns = { instruction = \"prompt\" }",
                Shape::Eval => "columns = { instruction = \"input\", output = \"ideal\" }",
                _ => "write the prompt as a list of turns, `[{\"role\": \"user\", \"content\": …}]`",
            },
        }),
        _ => Ok(()),
    }
}

/// Whether a shape reads a column, of a row with or without turns.
pub(crate) fn reads(shape: Shape, turns: bool, name: &str, raw: &Map<String, Value>) -> bool {
    if shape.keys().contains(&name) || (turns && SETTING.contains(&name)) {
        return true;
    }
    if SYSTEM.contains(&name) {
        return turns && system_column(raw).is_some_and(|column| column == name);
    }
    match shape {
        // Rewards may read every column, but no picture reaches the prompt.
        Shape::PromptOnly => !is_media(name),
        Shape::Alpaca | Shape::AlpacaPreference => match name {
            "input" | "history" => true,
            "context" => raw.get("input").is_none_or(is_absent),
            _ => false,
        },
        _ => false,
    }
}

/// Whether `columns` may map something to this name: a key of some shape, or what is read beside the keys.
pub(crate) fn is_read_somewhere(shape: Shape, name: &str) -> bool {
    let beside = SETTING.contains(&name) || SYSTEM.contains(&name) || ELSEWHERE.contains(&name);
    beside
        || shape.keys().contains(&name)
        || shape == Shape::PromptOnly
        || (matches!(shape, Shape::Alpaca | Shape::AlpacaPreference) && ["input", "history", "context"].contains(&name))
}

/// The column that holds the row's system prompt.
pub(crate) fn system_column(raw: &Map<String, Value>) -> Option<&'static str> {
    let says = |name: &&str| match raw.get(*name) {
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(value) => !is_absent(value),
        None => false,
    };
    SYSTEM.into_iter().find(says)
}

/// Whether a name is that of pictures, sounds or videos.
pub(crate) fn is_media(name: &str) -> bool {
    OF_MEDIA.contains(&plain(name).as_str())
}

pub(crate) fn is_system(name: &str) -> bool {
    plain(name).starts_with("sys")
}

/// An example of `columns` for rows of no known shape.
pub(crate) fn suggestion(keys: &[String]) -> String {
    let like = |names: &[&str]| {
        let fits = |key: &&String| names.contains(&plain(key).as_str()) && !is_system(key);
        keys.iter().find(fits)
    };
    let asks = [
        "question",
        "query",
        "problem",
        "instruction",
        "input",
        "prompt",
        "human",
        "user",
    ];
    match (like(&asks).or_else(|| like(&OF_PROMPTS)), like(&OF_REPLIES)) {
        (Some(prompt), Some(reply)) => format!("instruction = \"{prompt}\", output = \"{reply}\""),
        (Some(prompt), None) => format!("prompt = \"{prompt}\""),
        (None, Some(reply)) => format!("prompt = \"…\", completion = \"{reply}\""),
        (None, None) => "prompt = \"question\"".to_owned(),
    }
}

/// The texts of a value: itself, or those of its turns and parts.
pub(crate) fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) if !text.trim().is_empty() => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => ["content", "value", "text", "messages"]
            .iter()
            .filter_map(|key| fields.get(*key))
            .flat_map(texts)
            .collect(),
        _ => Vec::new(),
    }
}

fn has_turns(row: &Row) -> bool {
    match row {
        Row::Text(_) | Row::Labelled { .. } => false,
        Row::Chat(_) => true,
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } | Row::Preference { chosen: exchange, .. } => {
            matches!(exchange, Exchange::Turns { .. })
        }
        Row::PromptOnly { prompt, .. } => matches!(prompt, Prompt::Turns(_)),
    }
}

/// Every text that is read of a row.
fn texts_of(row: &Row) -> Vec<String> {
    let of = |messages: &[Message]| messages.iter().map(Message::text).collect::<Vec<_>>();
    let of_exchange = |exchange: &Exchange| match exchange {
        Exchange::Text { prompt, reply } => vec![prompt.clone(), reply.clone()],
        Exchange::Turns { prompt, reply } => [of(&prompt.messages), of(reply)].concat(),
    };
    match row {
        Row::Text(text) | Row::Labelled { text, .. } => vec![text.clone()],
        Row::Chat(chat) => of(&chat.messages),
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } => of_exchange(exchange),
        Row::Preference { chosen, rejected } => [of_exchange(chosen), of_exchange(rejected)].concat(),
        Row::PromptOnly { prompt, .. } => match prompt {
            Prompt::Text(text) => vec![text.clone()],
            Prompt::Turns(chat) => of(&chat.messages),
        },
    }
}

fn is_metadata(plain: &str) -> bool {
    plain.ends_with("id") || OF_METADATA.iter().any(|name| plain == *name || plain.ends_with(name))
}

fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_maps_columns_that_are_there() {
        for (keys, wanted) in [
            (
                "system_prompt question response",
                "instruction = \"question\", output = \"response\"",
            ),
            ("Query Answer", "instruction = \"Query\", output = \"Answer\""),
            ("passage", "prompt = \"passage\""),
            ("a b", "prompt = \"question\""),
        ] {
            let keys: Vec<String> = keys.split(' ').map(str::to_owned).collect();
            assert_eq!(suggestion(&keys), wanted, "{keys:?}");
        }
    }

    #[test]
    fn names_are_compared_without_capitals_and_signs() {
        assert!(is_system("System-Prompt") && !is_system("question"));
        assert!(is_metadata("promptid") && is_metadata("chosenmodel") && !is_metadata("passage"));
    }
}
