//! Rows with a better and a worse answer.

use serde_json::{Map, Value};

use super::{alpaca, exchange, parsed, setting, share_gpt, string, turns, with_system, wrong};
use crate::{Chat, Exchange, Message, Problem, Row, Shape};

/// Reads a row of one of the preference shapes.
pub(super) fn normalise(row: &Map<String, Value>, shape: Shape) -> Result<Row, Problem> {
    match shape {
        Shape::ShareGptPreference => {
            let messages = with_system(row, share_gpt::turns(&row["conversations"], "conversations")?)?;
            let prompt = Chat {
                messages,
                ..setting(row)?
            };
            let reply = |key: &str| -> Result<Exchange, Problem> {
                let reply = share_gpt::turns(&Value::Array(vec![row[key].clone()]), key)?;
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
        Shape::AlpacaPreference => {
            let prompt = alpaca(row)?;
            let reply = |key: &str| -> Result<Exchange, Problem> {
                let reply = vec![Message::new("assistant", &string(row, key)?)];
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
        // A text prompt beside whole conversations is the same prompt said twice.
        Shape::Preference if row["prompt"].is_string() && row["chosen"].is_array() => implicit(row),
        Shape::Preference => Ok(Row::Preference {
            chosen: exchange(row, "prompt", "chosen")?,
            rejected: exchange(row, "prompt", "rejected")?,
        }),
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
        _ => implicit(row),
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
