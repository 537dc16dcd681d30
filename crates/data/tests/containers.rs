//! The same rows from JSON lines, CSV and Parquet; and lines that are no rows, named by their number.

mod support;

use std::path::Path;

use data::{Dataset, Error, ReadConfig, Row};

fn read(name: &str, bytes: &[u8]) -> Result<Dataset, Error> {
    Dataset::parse(Path::new(name), bytes, &ReadConfig::default())
}

fn rows(set: &Dataset) -> Vec<Row> {
    set.rows().cloned().collect()
}

#[test]
fn what_parquet_pads_is_absent() {
    // Two tools with different parameters, and calls with different arguments; written by PyArrow.
    let parquet = read("padded.parquet", include_bytes!("vectors/padded.parquet")).unwrap();
    let lines = read("padded.jsonl", include_bytes!("vectors/padded.jsonl")).unwrap();
    assert_eq!(rows(&parquet), rows(&lines));
    let Row::Chat(chat) = parquet.row(0) else { panic!() };
    let call = &chat.messages[1].fields()["tool_calls"][0]["function"];
    assert_eq!(call.to_string(), r#"{"name":"weather","arguments":{"city":"Paris"}}"#);
    let parquet = read("weights.parquet", include_bytes!("vectors/weights.parquet")).unwrap();
    let lines = read("weights.jsonl", include_bytes!("vectors/weights.jsonl")).unwrap();
    assert_eq!(rows(&parquet), rows(&lines));
}

#[test]
fn a_cell_of_turns_is_turns_and_any_other_text_is_text() {
    let cell = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let turns = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
    let csv = format!("messages\n{}\n", cell(turns));
    assert_eq!(
        rows(&read("a.csv", csv.as_bytes()).unwrap()),
        rows(&support::rows(&format!("{{\"messages\": {turns}}}")))
    );
    let call = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]"#;
    let csv = format!("messages,tools\n{},{}\n", cell(call), cell(r#"[{"name": "f"}]"#));
    let line = format!("{{\"messages\": {call}, \"tools\": [{{\"name\": \"f\"}}]}}");
    assert_eq!(
        rows(&read("a.csv", csv.as_bytes()).unwrap()),
        rows(&support::rows(&line))
    );
    for text in [r#"{"city": "Paris"}"#, r#"[{"city": "Paris"}]"#, "[1, 2]", "[{"] {
        let csv = format!("prompt,completion\np,{}\n", cell(text));
        let line = serde_json::json!({"prompt": "p", "completion": text}).to_string();
        assert_eq!(
            rows(&read("a.csv", csv.as_bytes()).unwrap()),
            rows(&support::rows(&line))
        );
    }
}

#[test]
fn tools_are_read_as_text_objects_or_both() {
    let tool = r#"{"type": "function", "function": {"name": "f", "parameters": {}}}"#;
    let wanted = support::rows(&format!(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": \"a\"}}], \"tools\": [{tool}]}}"
    ));
    let pretty =
        serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&format!("[{tool}]")).unwrap());
    for tools in [
        serde_json::json!(pretty.unwrap()),
        serde_json::json!(format!("\n  [{tool}]")),
        serde_json::json!([tool]),
        serde_json::json!(tool),
        serde_json::from_str(tool).unwrap(),
    ] {
        let line = serde_json::json!({"messages": [{"role": "user", "content": "a"}], "tools": tools});
        assert_eq!(rows(&support::rows(&line.to_string())), rows(&wanted), "{line}");
    }
}

#[test]
fn valid_lines_are_read_to_the_letter() {
    for (bytes, wanted) in [
        (
            "{\"text\": \"a\u{2028}b\u{85}c\u{2029}d\"}\n{\"text\": \"e\\u000bf\"}\n",
            vec!["a\u{2028}b\u{85}c\u{2029}d", "e\u{b}f"],
        ),
        (
            "\u{feff}{\"text\": \"one\"}\r\n{\"text\": \"two\\r\\nthree\"}\r\n",
            vec!["one", "two\r\nthree"],
        ),
        ("{\"text\": \"whole \\ud83d\\ude00\"}", vec!["whole 😀"]),
    ] {
        let set = read("a.jsonl", bytes.as_bytes()).unwrap();
        assert_eq!(set.rows().map(Row::input).collect::<Vec<_>>(), wanted);
    }
}

#[test]
fn every_broken_line_is_named_with_what_to_do() {
    for (name, bytes, place, hint) in [
        (
            "a.jsonl",
            &b"{\"text\": \"a\"}\r\n{\"text\": \"half \\ud83d pair\"}\r\n"[..],
            "line 2: ",
            "half of a character",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"one\", \"score\": NaN}",
            "line 1: ",
            "NaN and Infinity are no JSON: write null",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"one\", \"score\": -Infinity}",
            "line 1: ",
            "NaN and Infinity",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"first\", \"text\": \"second\"}",
            "line 1: wanted a JSON object, found the key `text` twice",
            "keep one",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"one\"}\n{\"text\": \"tw",
            "line 2: ",
            "cut off",
        ),
        ("a.jsonl", b"{\"text\": \"one\"}\n\0\0\0\0", "line 2: ", "NUL bytes"),
        (
            "a.jsonl",
            b"{\"text\": \"one\"}\r{\"text\": \"two\"}\r",
            "line 1: ",
            "carriage returns",
        ),
        (
            "a.jsonl",
            b"\xff\xfe{\0\"\0",
            "`a.jsonl`: wanted UTF-8 text, found text in UTF-16",
            "iconv -f UTF-16",
        ),
        (
            "a.jsonl",
            b"\x1f\x8b\x08\0",
            "`a.jsonl`: wanted UTF-8 text, found a gzip file",
            "decompress",
        ),
        ("a.csv", b"PAR1....", "found a Parquet file", "ending .parquet"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\0", "found a gzip file", "decompress"),
        (
            "a.csv",
            b"prompt;completion\na;b\n",
            "line 1: wanted a header",
            "separate the columns by commas",
        ),
        (
            "a.csv",
            b"prompt\tcompletion\na\tb\n",
            "line 1: wanted a header",
            ".tsv",
        ),
        (
            "a.csv",
            b"text,text\na,b\n",
            "line 1: wanted a header with a name for each column, found `text` twice",
            "its own name",
        ),
        (
            "a.csv",
            b"text,id\r\na,1\r\nb\r\n",
            "line 3: wanted as many fields",
            "quotation marks",
        ),
        (
            "a.csv",
            b"text\na\n\"b\nc\n",
            "line 3: wanted a quotation mark",
            "cut off",
        ),
    ] {
        let message = read(name, bytes).unwrap_err().to_string();
        assert!(message.contains(place), "{name}: {message}");
        let told = message
            .lines()
            .any(|line| line.starts_with("hint: ") && line.contains(hint));
        assert!(told, "{hint} in {message}");
    }
}

#[test]
fn rows_of_crlf_tables_have_their_own_lines() {
    let set = read("a.csv", b"\xEF\xBB\xBFtext,id\r\n\"a\r\nb\",1\r\nc,2\r\n").unwrap();
    assert_eq!(set.place(0).to_string(), "`a.csv` line 2");
    assert_eq!(set.place(1).to_string(), "`a.csv` line 4");
}
