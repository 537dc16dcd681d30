//! Cells of CSV and Parquet tables that hold turns as JSON.
//!
//! A table's cell may hold a conversation only as text, so a cell that is JSON of turns, each with a role and a content
//! (or `from` and `value`), is decoded. Any other text stays text, JSON or not. In JSON files nothing is decoded: a string
//! there is a string.

use serde_json::{Map, Value};

use crate::message::ROLES;
use crate::read::strict;

/// Columns that may hold turns.
const OF_TURNS: [&str; 9] = [
    "messages",
    "conversations",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "input",
    "preferred_output",
    "non_preferred_output",
];

/// Decodes the cells of a row that are turns.
pub(crate) fn decode(row: &mut Map<String, Value>) {
    for name in OF_TURNS {
        // Alpaca's `input` is text that may well show a conversation.
        if name == "input" && !(row.contains_key("ideal") || row.contains_key("preferred_output")) {
            continue;
        }
        if let Some(cell) = row.get_mut(name)
            && let Some(turns) = cell.as_str().and_then(turns)
        {
            *cell = turns;
        }
    }
}

fn turns(text: &str) -> Option<Value> {
    let text = text.trim();
    if !text.starts_with(['[', '{']) {
        return None;
    }
    let value = strict::value(text).ok()?;
    let are_turns = match &value {
        Value::Array(items) => !items.is_empty() && items.iter().all(is_turn),
        one => {
            is_turn(one)
                || one
                    .get("messages")
                    .and_then(Value::as_array)
                    .is_some_and(|items| items.iter().all(is_turn))
        }
    };
    are_turns.then_some(value)
}

fn is_turn(value: &Value) -> bool {
    let says = ["content", "tool_calls", "function_call"]
        .iter()
        .any(|key| value.get(*key).is_some());
    let role = value.get("role").and_then(Value::as_str);
    let share_gpt = value.get("from").is_some_and(Value::is_string) && value.get("value").is_some_and(Value::is_string);
    share_gpt || (says && role.is_some_and(|role| ROLES.split(", ").any(|known| known == role)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_cells_of_turns_are_decoded() {
        let turn = json!({"role": "user", "content": "a"});
        for value in [
            json!([turn]),
            json!({"messages": [turn]}),
            json!([{"role": "assistant", "tool_calls": []}]),
            json!({"from": "human", "value": "a"}),
        ] {
            let mut row = Map::from_iter([("prompt".to_owned(), json!(value.to_string()))]);
            decode(&mut row);
            assert_eq!(row["prompt"], value);
        }
        for text in [
            r#"{"city": "Paris"}"#,
            r#"[{"city": "Paris"}]"#,
            r#"[{"role": "capital", "content": "Paris"}]"#,
            r#"[{"role": "user", "content": "a"}, {"city": "Paris"}]"#,
            "[]",
            "[{\"role\": \"user\"",
            "plain",
        ] {
            let mut row = Map::from_iter([
                ("completion".to_owned(), json!(text)),
                ("output".to_owned(), json!(text)),
            ]);
            let before = row.clone();
            decode(&mut row);
            assert_eq!(row, before);
        }
    }

    #[test]
    fn an_input_is_text_unless_the_shape_has_turns_there() {
        let text = json!([{"role": "user", "content": "a"}]).to_string();
        let mut alpaca = Map::from_iter([("input".to_owned(), json!(text)), ("output".to_owned(), json!("b"))]);
        decode(&mut alpaca);
        assert_eq!(alpaca["input"], json!(text));
        let mut eval = Map::from_iter([("input".to_owned(), json!(text)), ("ideal".to_owned(), json!("b"))]);
        decode(&mut eval);
        assert!(eval["input"].is_array());
    }
}
