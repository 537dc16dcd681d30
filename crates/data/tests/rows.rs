//! Every shape of row, read into its normal form; and every kind of bad row, refused by name.

mod support;

use std::path::Path;

use data::{Dataset, Error, Exchange, Label, Prompt, ReadConfig, Row, Shape};

fn row(line: &str) -> Row {
    support::rows(line).row(0).clone()
}

fn refused(line: &str) -> String {
    Dataset::parse(Path::new("rows.jsonl"), line.as_bytes(), &ReadConfig::default())
        .unwrap_err()
        .to_string()
}

/// Role and text of each turn.
type Said = Vec<(String, String)>;

fn turns(messages: &[data::Message]) -> Said {
    messages
        .iter()
        .map(|message| (message.role().to_owned(), message.text()))
        .collect()
}

fn said(pairs: &[(&str, &str)]) -> Said {
    pairs
        .iter()
        .map(|(role, text)| ((*role).to_owned(), (*text).to_owned()))
        .collect()
}

fn exchange(row: Row) -> (Said, Said) {
    match row {
        Row::Prompted(Exchange::Turns { prompt, reply }) => (turns(&prompt.messages), turns(&reply)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn alpaca_rows_become_conversations() {
    let line =
        r#"{"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be terse.", "history": [["q", "a"]]}"#;
    let (prompt, reply) = exchange(row(line));
    assert_eq!(
        prompt,
        said(&[
            ("system", "Be terse."),
            ("user", "q"),
            ("assistant", "a"),
            ("user", "Add.\n1 2")
        ])
    );
    assert_eq!(reply, said(&[("assistant", "3")]));
    let (prompt, _) = exchange(row(r#"{"instruction": "Hi", "input": "", "output": "Ho"}"#));
    assert_eq!(prompt, said(&[("user", "Hi")]));
}

#[test]
fn share_gpt_rows_become_conversations() {
    let line = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"}, {"from": "observation", "value": "c"}],
        "system": "s", "tools": "[{\"name\": \"f\"}]"}"#
        .replace('\n', " ");
    let Row::Chat(chat) = row(&line) else { panic!() };
    let wanted = [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("assistant", ""),
        ("tool", "c"),
    ];
    assert_eq!(turns(&chat.messages), said(&wanted));
    assert_eq!(chat.messages[3].fields()["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(chat.tools.unwrap()[0]["name"], "f");
}

#[test]
fn evals_rows_become_prompts_with_their_ideal_answer() {
    let line =
        r#"{"input": [{"role": "system", "content": "0 or 1"}, {"role": "user", "content": "x"}], "ideal": "1"}"#;
    let (prompt, reply) = exchange(row(line));
    assert_eq!(prompt, said(&[("system", "0 or 1"), ("user", "x")]));
    assert_eq!(reply, said(&[("assistant", "1")]));
}

#[test]
fn implicit_preferences_share_their_beginning() {
    let Row::Preference { chosen, rejected } =
        row(r#"{"chosen": "The sky is blue.", "rejected": "The sky is green."}"#)
    else {
        panic!()
    };
    // The space belongs to the word after it, as in TRL.
    assert_eq!(
        chosen,
        Exchange::Text {
            prompt: "The sky is".to_owned(),
            reply: " blue.".to_owned()
        }
    );
    assert_eq!(
        rejected,
        Exchange::Text {
            prompt: "The sky is".to_owned(),
            reply: " green.".to_owned()
        }
    );
    let line = r#"{"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}"#
        .replace('\n', " ");
    let Row::Preference {
        chosen: Exchange::Turns { prompt, reply },
        ..
    } = row(&line)
    else {
        panic!()
    };
    assert_eq!(
        (turns(&prompt.messages), turns(&reply)),
        (said(&[("user", "q")]), said(&[("assistant", "a")]))
    );
}

#[test]
fn other_shapes_keep_what_they_say() {
    assert_eq!(row(r#"{"text": "a"}"#), Row::Text("a".to_owned()));
    let labelled = |label| Row::Labelled {
        text: "a".to_owned(),
        label,
    };
    assert_eq!(row(r#"{"text": "a", "label": 3}"#), labelled(Label::Id(3)));
    assert_eq!(
        row(r#"{"text": "a", "label": "spam"}"#),
        labelled(Label::Name("spam".to_owned()))
    );
    // A name of a truth value can mean nothing else; a number could be a score.
    for (label, wanted) in [("true", true), ("False", false)] {
        let text = format!("{{\"prompt\": \"a\", \"completion\": \"b\", \"label\": \"{label}\"}}");
        assert!(
            matches!(row(&text), Row::Unpaired { desirable, .. } if desirable == wanted),
            "{text}"
        );
    }
    let Row::Unpaired { desirable, .. } = row(r#"{"prompt": "a", "completion": "b", "label": false}"#) else {
        panic!()
    };
    assert!(!desirable);
    let Row::PromptOnly { prompt, extra } = row(r#"{"prompt": "a", "answer": 7}"#) else {
        panic!()
    };
    assert_eq!(
        (prompt, &extra["answer"]),
        (Prompt::Text("a".to_owned()), &serde_json::json!(7))
    );
    let line = r#"{"input": {"messages": [{"role": "user", "content": "q"}]},
        "preferred_output": [{"role": "assistant", "content": "a"}],
        "non_preferred_output": [{"role": "assistant", "content": "b"}]}"#
        .replace('\n', " ");
    let Row::Preference { rejected, .. } = row(&line) else {
        panic!()
    };
    assert_eq!(rejected.reply_text(), "b");
    let line = r#"{"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"}}"#
        .replace('\n', " ");
    let Row::Preference { chosen, .. } = row(&line) else {
        panic!()
    };
    assert_eq!(chosen.reply_text(), "a");
}

#[test]
fn columns_can_be_renamed_and_shapes_chosen() {
    let read = |line: &str, config: &ReadConfig| Dataset::parse(Path::new("r.jsonl"), line.as_bytes(), config).unwrap();
    let columns = [("prompt", "question"), ("completion", "answer")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let config = ReadConfig {
        columns: columns.into(),
        ..ReadConfig::default()
    };
    assert_eq!(
        read(r#"{"question": "a", "answer": "b"}"#, &config).shape(),
        Shape::PromptCompletion
    );
    let config = ReadConfig {
        shape: Some(Shape::Text),
        ..ReadConfig::default()
    };
    let both = r#"{"text": "a", "messages": [{"role": "user", "content": "b"}]}"#;
    assert_eq!(read(both, &config).row(0), &Row::Text("a".to_owned()));
    let message = refused(both);
    assert!(
        message.contains("do not say the same: `text`, `messages`") && message.contains("shape = \"text\""),
        "{message}"
    );
}

#[test]
fn every_bad_row_is_named_with_what_was_wanted_and_found() {
    let user = r#"{"role": "user", "content": "a"}"#;
    for (lines, wanted) in [
        (
            r#"{"question": "a"}"#.to_owned(),
            "`rows.jsonl` line 1: no known shape has the keys `question`",
        ),
        (
            "{\"text\": \"a\"}\n\n{\"txt\": \"b\"}".to_owned(),
            "line 3: wanted the keys `text` of shape `text`, found `txt`",
        ),
        (
            "{\"text\": \"a\"}\n{\"text\": 5}".to_owned(),
            "line 2: `text`: wanted a string, found 5",
        ),
        (
            "{\"text\": \"a\"}\n{\"text\": \"b".to_owned(),
            "line 2: wanted a JSON object, found EOF while parsing a string",
        ),
        ("[1]".to_owned(), "line 1: wanted a JSON object, found [1]"),
        (
            r#"{"messages": [{"role": "robot", "content": "a"}]}"#.to_owned(),
            "`messages[0].role`: unknown role `robot`",
        ),
        (
            format!(r#"{{"messages": [{user}, {{"content": "a"}}]}}"#),
            "`messages[1]`: wanted an object with `role`",
        ),
        (
            format!(r#"{{"messages": [{user}, {{"role": "assistant"}}]}}"#),
            "`messages[1]`: wanted an object with `role`",
        ),
        (
            r#"{"messages": []}"#.to_owned(),
            "`messages`: wanted a list of messages, found []",
        ),
        (
            r#"{"messages": [{"role": "user", "content": 5}]}"#.to_owned(),
            "`messages[0].content`: wanted a string or",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "a", "weight": 2}]}"#.to_owned(),
            "wanted 0 or 1, found 2",
        ),
        (
            r#"{"conversations": [{"from": "alien", "value": "a"}]}"#.to_owned(),
            "`conversations[0].from`: unknown role `alien`",
        ),
        (
            r#"{"prompt": "a", "completion": "b", "label": "maybe"}"#.to_owned(),
            "`label`: wanted true or false",
        ),
        (
            format!(r#"{{"prompt": "b", "completion": [{user}, {{"role": "assistant", "content": "b"}}]}}"#),
            "`completion`: wanted the assistant's turn, or turns that begin with the prompt",
        ),
        (
            r#"{"text": "a", "label": -1}"#.to_owned(),
            "`label`: wanted a name or a whole number from 0, found -1",
        ),
        (
            r#"{"input": "a", "ideal": []}"#.to_owned(),
            "`ideal`: wanted a string or a list of strings",
        ),
        (
            format!(r#"{{"chosen": [{user}], "rejected": [{user}]}}"#),
            "`rejected`: wanted turns that begin as `chosen`",
        ),
        (
            format!(r#"{{"messages": [{user}], "tools": "none"}}"#),
            "`tools`: wanted a list of objects, found \"none\"",
        ),
    ] {
        let found = refused(&lines);
        assert!(found.contains(wanted), "{lines}\nwanted: {wanted}\nfound:  {found}");
    }
}

#[test]
fn labels_are_numbered_by_name_over_all_sets() {
    let train = support::rows("{\"text\": \"a\", \"label\": \"spam\"}\n{\"text\": \"b\", \"label\": \"ham\"}");
    let test = support::rows("{\"text\": \"c\", \"label\": \"eggs\"}");
    let names = data::label_names([&train, &test]).unwrap();
    assert_eq!(names, ["eggs", "ham", "spam"]);
    assert_eq!(Label::Name("ham".to_owned()).number(&names), Ok(1));
    assert!(
        Label::Name("tea".to_owned())
            .number(&names)
            .unwrap_err()
            .to_string()
            .contains("`eggs`, `ham`, `spam`")
    );
    let numbers = support::rows("{\"text\": \"a\", \"label\": 2}");
    assert_eq!(data::label_names([&numbers]).unwrap(), ["0", "1", "2"]);
    let strings = support::rows("{\"text\": \"a\", \"label\": \"10\"}\n{\"text\": \"b\", \"label\": \"9\"}");
    assert_eq!(data::label_names([&strings]).unwrap(), ["9", "10"]);
    assert!(matches!(
        data::label_names([&train, &numbers]),
        Err(Error::Setting { .. })
    ));
}

#[test]
fn rows_with_the_same_input_are_dropped_before_a_split_that_the_seed_decides() {
    let lines: Vec<String> = (0..60)
        .map(|i| format!("{{\"prompt\": \"p{}\", \"completion\": \"{i}\"}}", i % 50))
        .collect();
    let mut set = support::rows(&lines.join("\n"));
    assert_eq!((set.dedupe(), set.len()), (10, 50));
    let inputs = |set: &Dataset| set.rows().map(Row::input).collect::<Vec<_>>();
    let all = inputs(&set);
    let (learn, held) = set.clone().split(data::HeldOut::Count(10), 7).unwrap();
    assert_eq!((learn.len(), held.len()), (40, 10));
    let (learnt, kept) = (inputs(&learn), inputs(&held));
    assert!(all.iter().all(|input| learnt.contains(input) != kept.contains(input)));
    let (_, again) = set.clone().split(data::HeldOut::Fraction(0.2), 7).unwrap();
    assert_eq!(inputs(&again), kept);
    let (_, other) = set.clone().split(data::HeldOut::Count(10), 8).unwrap();
    assert_ne!(inputs(&other), kept);
    assert!(matches!(
        set.split(data::HeldOut::Count(50), 7),
        Err(Error::Setting { .. })
    ));
}
