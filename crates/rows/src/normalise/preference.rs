//! Rows with a better and a worse answer.

use serde_json::{Map, Value};

use super::exchange::{exchange, reply};
use super::{alpaca, conversation, share_gpt, turns};
use crate::message::wrong;
use crate::{Chat, Exchange, Message, Problem, Row, Shape};

/// Where an answer of Anthropic's hh-rlhf begins.
const ASSISTANT: &str = "\n\nAssistant:";

/// Reads a row of one of the preference shapes.
pub(super) fn normalise(row: &Map<String, Value>, shape: Shape) -> Result<Row, Problem> {
    match shape {
        Shape::ShareGptPreference => {
            let prompt = conversation(row, share_gpt::turns(&row["conversations"], "conversations")?)?;
            let reply = |key: &str| match &row[key] {
                list @ Value::Array(_) => share_gpt::turns(list, key),
                one @ Value::Object(_) => share_gpt::turns(&Value::Array(vec![one.clone()]), key),
                other => reply(other, key),
            };
            Ok(pair(prompt, reply("chosen")?, reply("rejected")?))
        }
        Shape::AlpacaPreference => {
            let prompt = alpaca::prompt(row)?;
            Ok(pair(
                prompt,
                reply(&row["chosen"], "chosen")?,
                reply(&row["rejected"], "rejected")?,
            ))
        }
        Shape::Preference if row["prompt"].is_string() && row["chosen"].is_array() && !begins_with_reply(row) => {
            // Whole conversations: the text prompt is one of the turns that both share.
            let pair = implicit(row)?;
            if let (Row::Preference { chosen, .. }, Some(said)) = (&pair, row["prompt"].as_str())
                && let Exchange::Turns { prompt, .. } = chosen
                && !prompt.messages.iter().any(|turn| turn.text().trim() == said.trim())
            {
                return Err(wrong(
                    "prompt",
                    "a turn that `chosen` and `rejected` begin with",
                    &row["prompt"],
                ));
            }
            Ok(pair)
        }
        Shape::Preference if row["chosen"].is_string() != row["rejected"].is_string() && row["prompt"].is_string() => {
            Err(wrong("rejected", "what `chosen` is, text or turns", &row["rejected"]))
        }
        Shape::Preference => Ok(Row::Preference {
            chosen: exchange(row, "prompt", "chosen")?,
            rejected: exchange(row, "prompt", "rejected")?,
        }),
        Shape::OpenAiPreference => {
            let Some((input, messages)) = row["input"]
                .as_object()
                .and_then(|input| Some((input, input.get("messages")?)))
            else {
                return Err(wrong("input", "an object with `messages`", &row["input"]));
            };
            let prompt = conversation(row, turns(messages, "input.messages")?)?;
            // The tools may stand beside the messages, or beside the input.
            let inner = super::setting(input)?;
            let prompt = Chat {
                tools: inner.tools.or(prompt.tools),
                documents: inner.documents.or(prompt.documents),
                ..prompt
            };
            let reply = |key: &str| reply(&row[key], key);
            Ok(pair(prompt, reply("preferred_output")?, reply("non_preferred_output")?))
        }
        _ => implicit(row),
    }
}

fn pair(prompt: Chat, chosen: Vec<Message>, rejected: Vec<Message>) -> Row {
    Row::Preference {
        chosen: Exchange::Turns {
            prompt: prompt.clone(),
            reply: chosen,
        },
        rejected: Exchange::Turns {
            prompt,
            reply: rejected,
        },
    }
}

/// Whether the replies' turns begin with the assistant's, so that the prompt is not among them.
fn begins_with_reply(row: &Map<String, Value>) -> bool {
    ["chosen", "rejected"]
        .iter()
        .any(|key| row[*key].is_string() || row[*key][0]["role"] == "assistant")
}

/// Splits the common beginning off two whole texts or conversations.
fn implicit(row: &Map<String, Value>) -> Result<Row, Problem> {
    match (&row["chosen"], &row["rejected"]) {
        (Value::String(chosen), Value::String(rejected)) => {
            let common = common_prompt(chosen, rejected);
            let part = |whole: &str| Exchange::Text {
                prompt: chosen[..common].to_owned(),
                reply: whole[common..].to_owned(),
            };
            Ok(Row::Preference {
                chosen: part(chosen),
                rejected: part(rejected),
            })
        }
        (Value::Array(_), Value::Array(_)) => {
            let chosen = turns(&row["chosen"], "chosen")?;
            let rejected = turns(&row["rejected"], "rejected")?;
            let mut common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            // Two conversations that are the same differ in no turn; the last one is the reply all the same.
            common = common.min(chosen.len().min(rejected.len()).saturating_sub(1));
            let answers = |turns: &[Message]| turns[common..].iter().any(|turn| turn.role() == "assistant");
            if common == 0 || !answers(&chosen) || !answers(&rejected) {
                return Err(wrong(
                    "rejected",
                    "turns that begin as `chosen` does and end with another answer",
                    &row["rejected"],
                ));
            }
            let prompt = conversation(row, chosen[..common].to_vec())?;
            Ok(pair(prompt, chosen[common..].to_vec(), rejected[common..].to_vec()))
        }
        (Value::String(_) | Value::Array(_), other) => Err(wrong("rejected", "what `chosen` is, text or turns", other)),
        (other, _) => Err(wrong("chosen", "a string or a list of messages", other)),
    }
}

/// Bytes of the prompt that two texts share: their common beginning, up to a border between words.
///
/// Of a dialogue of hh-rlhf it ends behind the last `Assistant:` that both have, so each reply is whole. Else a space
/// before the first word that differs belongs to that word, as in TRL; unlike there a word is never split, and a text that
/// the other one only continues keeps its last word as its reply.
fn common_prompt(chosen: &str, rejected: &str) -> usize {
    let mut common = chosen
        .char_indices()
        .zip(rejected.chars())
        .find(|((_, a), b)| a != b)
        .map_or(chosen.len().min(rejected.len()), |((at, _), _)| at);
    if chosen.trim_start().starts_with("Human:")
        && let Some(at) = chosen[..common].rfind(ASSISTANT)
    {
        return at + ASSISTANT.len();
    }
    if common == chosen.len() || common == rejected.len() {
        let shared = chosen[..common].trim_end();
        let last_word = shared.char_indices().rfind(|(_, c)| c.is_whitespace());
        common = last_word.map_or(0, |(at, space)| at + space.len_utf8());
    }
    let ends_inside = |at: usize| {
        let before = chosen[..at].chars().next_back();
        let starts_word = |text: &str| text[at..].chars().next().is_none_or(is_of_word);
        before.is_some_and(is_of_word) && (starts_word(chosen) || starts_word(rejected))
    };
    while ends_inside(common) {
        common -= chosen[..common].chars().next_back().map_or(0, char::len_utf8);
    }
    if chosen[..common].ends_with(' ') {
        common -= 1;
    }
    common
}

/// A letter or digit of a script that separates words by spaces.
fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() && c < '\u{0590}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_beginning_ends_between_words() {
        for (chosen, rejected, prompt) in [
            ("The sky is blue.", "The sky is green.", "The sky is"),
            ("The sky is blue.", "The sky is black.", "The sky is"),
            ("It is yes", "It is yes, but", "It is"),
            ("It is so. Yes.", "It is so. Yes. But", "It is so."),
            ("Is it?\nYes.", "Is it?\nYes. But", "Is it?\n"),
            ("Sum:\n4", "Sum:\n5", "Sum:\n"),
            ("{\"city\": \"Paris\"}", "{\"city\": \"Rome\"}", "{\"city\": \""),
            ("天空是蓝色", "天空是绿色", "天空是"),
            ("yes", "no", ""),
            ("same", "same", ""),
            ("a b", "a b", "a"),
            ("", "x", ""),
            (
                "\n\nHuman: hi\n\nAssistant: yes",
                "\n\nHuman: hi\n\nAssistant: yes, but",
                "\n\nHuman: hi\n\nAssistant:",
            ),
        ] {
            let common = common_prompt(chosen, rejected);
            assert_eq!(&chosen[..common], prompt, "{chosen} / {rejected}");
            assert_eq!(&rejected[..common], prompt, "{chosen} / {rejected}");
        }
    }
}
