//! Rows written to a file and read again are the same; damaged files give errors, never a panic.

mod support;

use std::path::Path;
use std::sync::Arc;

use data::{Dataset, ReadConfig, Row};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A turn's role, content and name, each text perhaps absent.
type Turn = (&'static str, Option<String>, Option<String>);

fn read(name: &str, bytes: &[u8]) -> Result<Dataset, data::Error> {
    Dataset::parse(Path::new(name), bytes, &ReadConfig::default())
}

fn rows(name: &str, bytes: &[u8]) -> Vec<Row> {
    let set = read(name, bytes).unwrap_or_else(|error| panic!("{error}"));
    set.rows().cloned().collect()
}

/// Texts with everything that files treat specially.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,12}",
        "\\PC{1,8}",
        "[\"',;\\\\\t\r\n\u{2028}\u{85}\u{feff}\u{1f600}{}\\[\\]:a-c ]{1,16}",
        Just("{\"city\": \"Paris\"}".to_owned()),
        Just("[{\"city\": \"Paris\"}]".to_owned()),
    ]
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let role = prop_oneof![Just("user"), Just("assistant"), Just("tool")];
    prop::collection::vec((role, prop::option::of(text()), prop::option::of("[a-z]{1,5}")), 1..5)
}

/// A turn as its object: what is absent is null or not there.
fn object(turn: &Turn, padded: bool) -> Value {
    let (role, content, name) = turn;
    let mut object = json!({"role": role, "content": content});
    if padded || name.is_some() {
        object["name"] = json!(name);
    }
    object
}

fn lines(rows: impl Iterator<Item = Value>) -> String {
    rows.map(|row| row.to_string() + "\n").collect::<Vec<_>>().concat()
}

/// A Parquet table of one column of turns.
fn parquet_of_turns(chats: &[Vec<Turn>]) -> Vec<u8> {
    const SCHEMA: &str =
        "message schema { optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); optional binary name (UTF8); } } } }";
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut file = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in 0..3 {
        let cell = |turn: &Turn| match column {
            0 => Some(turn.0.to_owned()),
            1 => turn.1.clone(),
            _ => turn.2.clone(),
        };
        let cells: Vec<Option<String>> = chats.iter().flatten().map(cell).collect();
        // Four optional or repeated levels lie above a text; a null one ends at the third.
        let defined: Vec<i16> = cells.iter().map(|cell| if cell.is_some() { 4 } else { 3 }).collect();
        let repeated: Vec<i16> = chats
            .iter()
            .flat_map(|chat| (0..chat.len()).map(|at| i16::from(at > 0)))
            .collect();
        let values: Vec<ByteArray> = cells.iter().flatten().map(|text| text.as_str().into()).collect();
        let mut writer = group.next_column().unwrap().unwrap();
        writer
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&defined), Some(&repeated))
            .unwrap();
        writer.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    file
}

/// A Parquet table of text columns.
fn parquet_of_texts(names: &[&str], table: &[Vec<Option<String>>]) -> Vec<u8> {
    let fields: Vec<String> = names
        .iter()
        .map(|name| format!("optional binary {name} (UTF8);"))
        .collect();
    let fields = fields.join(" ");
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {fields} }}")).unwrap());
    let mut file = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in 0..names.len() {
        let defined: Vec<i16> = table.iter().map(|row| i16::from(row[column].is_some())).collect();
        let values: Vec<ByteArray> = table
            .iter()
            .filter_map(|row| Some(row[column].as_deref()?.into()))
            .collect();
        let mut writer = group.next_column().unwrap().unwrap();
        writer
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&defined), None)
            .unwrap();
        writer.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    file
}

fn csv_of_texts(names: &[&str], table: &[Vec<Option<String>>], line_end: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut csv = names.join(",") + line_end;
    for row in table {
        let cells: Vec<String> = row
            .iter()
            .map(|cell| cell.as_deref().map_or(String::new(), quoted))
            .collect();
        csv += &(cells.join(",") + line_end);
    }
    csv
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn conversations_are_the_same_from_every_file(chats in prop::collection::vec(turns(), 1..4)) {
        let plain = |padded| lines(chats.iter().map(|chat| {
            json!({"messages": chat.iter().map(|turn| object(turn, padded)).collect::<Vec<_>>()})
        }));
        let wanted = rows("a.jsonl", plain(false).as_bytes());
        for (row, chat) in wanted.iter().zip(&chats) {
            let Row::Chat(read) = row else { panic!() };
            let said: Vec<(String, String)> = read.messages.iter().map(|turn| (turn.role().to_owned(), turn.text())).collect();
            let written: Vec<(String, String)> = chat.iter().map(|turn| (turn.0.to_owned(), turn.1.clone().unwrap_or_default())).collect();
            prop_assert_eq!(said, written);
        }
        prop_assert_eq!(&rows("a.jsonl", plain(true).as_bytes()), &wanted);
        prop_assert_eq!(&rows("a.jsonl", plain(true).replace('\n', "\r\n").as_bytes()), &wanted);
        let list: Vec<Value> = plain(true).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        prop_assert_eq!(&rows("a.json", serde_json::to_string_pretty(&list).unwrap().as_bytes()), &wanted);
        prop_assert_eq!(&rows("a.parquet", &parquet_of_turns(&chats)), &wanted);
        // A table's cell holds the turns as JSON.
        let cells: Vec<Vec<Option<String>>> = list.iter().map(|row| vec![Some(row["messages"].to_string())]).collect();
        prop_assert_eq!(&rows("a.csv", csv_of_texts(&["messages"], &cells, "\n").as_bytes()), &wanted);
        prop_assert_eq!(&rows("a.parquet", &parquet_of_texts(&["messages"], &cells)), &wanted);
        // What was read is written and read again.
        let again = lines(wanted.iter().map(|row| {
            let Row::Chat(chat) = row else { panic!() };
            json!({"messages": chat.messages.iter().map(|turn| Value::Object(turn.fields().clone())).collect::<Vec<_>>()})
        }));
        prop_assert_eq!(&rows("a.jsonl", again.as_bytes()), &wanted);
    }

    #[test]
    fn texts_are_the_same_from_every_file(table in prop::collection::vec((text(), text(), prop::option::of(text())), 1..5)) {
        // The last column is one that no shape reads.
        let names = ["prompt", "completion", "note"];
        let table: Vec<Vec<Option<String>>> = table.into_iter().map(|(a, b, c)| vec![Some(a), Some(b), c]).collect();
        let objects = table.iter().map(|row| Value::Object(names.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), json!(cell))).collect()));
        let wanted = rows("a.jsonl", lines(objects).as_bytes());
        for (row, cells) in wanted.iter().zip(&table) {
            let text = |at: usize| cells[at].clone().unwrap();
            let exchange = data::Exchange::Text { prompt: text(0), reply: text(1) };
            prop_assert_eq!(row, &Row::Prompted(exchange));
        }
        for line_end in ["\n", "\r\n"] {
            prop_assert_eq!(&rows("a.csv", csv_of_texts(&names, &table, line_end).as_bytes()), &wanted);
        }
        prop_assert_eq!(&rows("a.parquet", &parquet_of_texts(&names, &table)), &wanted);
    }

    #[test]
    fn lines_of_rows_are_those_of_the_file(empty in prop::collection::vec(0usize..3, 1..8), crlf: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let (mut file, mut wanted, mut line) = (String::new(), Vec::new(), 1);
        for (at, before) in empty.iter().enumerate() {
            file += &(end.repeat(*before) + &format!("{{\"text\": \"t{at}\"}}{end}"));
            wanted.push(format!("`a.jsonl` line {}", line + before));
            line += before + 1;
        }
        let set = read("a.jsonl", file.as_bytes()).unwrap();
        let found: Vec<String> = (0..set.len()).map(|idx| set.place(idx).to_string()).collect();
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn any_bytes_give_rows_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for name in ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet"] {
            let _ = read(name, &bytes);
        }
    }

    #[test]
    fn damaged_files_give_rows_or_an_error(file in 0usize..7, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6)) {
        let chats = vec![vec![("user", Some("a, \"b\"".to_owned()), None), ("assistant", Some("c".to_owned()), Some("n".to_owned()))]; 3];
        let cells = vec![vec![Some("p".to_owned()), Some("[{\"role\": \"user\", \"content\": \"x\"}]".to_owned())]; 3];
        let jsonl = lines(chats.iter().map(|chat| json!({"system": "s", "tools": [{"name": "f"}], "messages": chat.iter().map(|turn| object(turn, true)).collect::<Vec<_>>()})));
        let (name, mut bytes) = match file {
            0 => ("a.jsonl", jsonl.into_bytes()),
            1 => ("a.json", format!("[{}]", jsonl.trim().replace('\n', ",")).into_bytes()),
            2 => ("a.csv", csv_of_texts(&["prompt", "completion"], &cells, "\r\n").into_bytes()),
            3 => ("a.jsonl", include_bytes!("vectors/padded.jsonl").to_vec()),
            4 => ("a.parquet", parquet_of_turns(&chats)),
            5 => ("a.parquet", include_bytes!("vectors/padded.parquet").to_vec()),
            _ => ("a.parquet", parquet_of_texts(&["prompt", "completion"], &cells)),
        };
        for (at, byte, how) in damage {
            if bytes.is_empty() { break; }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.truncate(at),
                _ => bytes.insert(at, byte),
            }
        }
        let _ = read(name, &bytes);
    }
}
