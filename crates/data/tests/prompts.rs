//! No part of a prompt vanishes: columns that may hold one are used, refused or named; text stays text.

mod support;

use std::path::Path;

use data::{Dataset, Exchange, Prompt, ReadConfig, Row, Shape};
use serde_json::{Value, json};

fn read(row: &Value, config: &ReadConfig) -> Result<Dataset, data::Error> {
    Dataset::parse(Path::new("rows.jsonl"), row.to_string().as_bytes(), config)
}

fn row(row: &Value) -> Row {
    let read = read(row, &ReadConfig::default()).unwrap_or_else(|error| panic!("{row}: {error}"));
    read.row(0).clone()
}

/// Role and text of each turn, `role: text`, with `>` before the turns of a reply; of texts the texts.
fn said(row: &Row) -> Vec<String> {
    let turns = |messages: &[data::Message], mark: &str| -> Vec<String> {
        let turn = |turn: &data::Message| format!("{mark}{}: {}", turn.role(), turn.text());
        messages.iter().map(turn).collect()
    };
    let exchange = |exchange: &Exchange| match exchange {
        Exchange::Text { prompt, reply } => vec![prompt.clone(), format!(">{reply}")],
        Exchange::Turns { prompt, reply } => [turns(&prompt.messages, ""), turns(reply, ">")].concat(),
    };
    match row {
        Row::Text(text) => vec![text.clone()],
        Row::Labelled { text, label } => vec![text.clone(), format!("{label:?}")],
        Row::Chat(chat) => turns(&chat.messages, ""),
        Row::Prompted(one) | Row::Unpaired { exchange: one, .. } => exchange(one),
        Row::Preference { chosen, rejected } => [exchange(chosen), exchange(rejected)].concat(),
        Row::PromptOnly { prompt, .. } => match prompt {
            Prompt::Text(text) => vec![text.clone()],
            Prompt::Turns(chat) => turns(&chat.messages, ""),
        },
    }
}

fn turn(role: &str, text: &str) -> Value {
    json!({ "role": role, "content": text })
}

#[test]
fn a_system_prompt_is_the_system_turn_in_every_shape_of_conversation() {
    let (hi, yes, no) = (turn("user", "hi"), turn("assistant", "yes"), turn("assistant", "no"));
    let one = ["system: s", "user: hi", ">assistant: yes"];
    let two = [
        "system: s",
        "user: hi",
        ">assistant: yes",
        "system: s",
        "user: hi",
        ">assistant: no",
    ];
    for (line, wanted) in [
        (
            json!({"messages": [hi, yes]}),
            &["system: s", "user: hi", "assistant: yes"][..],
        ),
        (
            json!({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}),
            &["system: s", "user: hi", "assistant: yes"],
        ),
        (json!({"instruction": "hi", "output": "yes"}), &one),
        (json!({"prompt": [hi], "completion": [yes]}), &one),
        (json!({"prompt": [hi], "completion": "yes"}), &one),
        (json!({"prompt": "hi", "completion": [yes]}), &one),
        (json!({"prompt": [hi], "completion": [yes], "label": true}), &one),
        (json!({"input": [hi], "ideal": "yes"}), &one),
        (json!({"prompt": [hi]}), &["system: s", "user: hi"]),
        (json!({"prompt": [hi], "chosen": [yes], "rejected": [no]}), &two),
        (json!({"prompt": [hi], "chosen": "yes", "rejected": "no"}), &two),
        (json!({"chosen": [hi, yes], "rejected": [hi, no]}), &two),
        (json!({"instruction": "hi", "chosen": "yes", "rejected": "no"}), &two),
        (
            json!({"conversations": [{"from": "human", "value": "hi"}], "chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}}),
            &two,
        ),
        (
            json!({"input": {"messages": [hi]}, "preferred_output": [yes], "non_preferred_output": [no]}),
            &two,
        ),
    ] {
        for column in ["system", "system_prompt", "system_message"] {
            let mut line = line.clone();
            line[column] = json!("s");
            assert_eq!(said(&row(&line)), wanted, "{line}");
        }
        // A null or empty one is none.
        for absent in [json!(null), json!("")] {
            let mut line = line.clone();
            line["system"] = absent;
            let without: Vec<&str> = wanted
                .iter()
                .filter(|turn| !turn.starts_with("system"))
                .copied()
                .collect();
            assert_eq!(said(&row(&line)), without, "{line}");
        }
    }
}

#[test]
fn a_system_prompt_is_said_once() {
    let messages = json!([turn("system", "s"), turn("user", "hi"), turn("assistant", "yes")]);
    let same = row(&json!({"system": "s", "messages": messages}));
    assert_eq!(said(&same), ["system: s", "user: hi", "assistant: yes"]);
    let error = read(&json!({"system": "t", "messages": messages}), &ReadConfig::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`system` and the system turn of the conversation differ"),
        "{error}"
    );
}

#[test]
fn prompts_and_replies_of_two_kinds_make_one_conversation() {
    let (hi, yes, no) = (turn("user", "hi"), turn("assistant", "yes"), turn("assistant", "no"));
    let two = ["user: hi", ">assistant: yes", "user: hi", ">assistant: no"];
    for (line, wanted) in [
        // Replies alone under a text prompt, and whole conversations that repeat it.
        (json!({"prompt": "hi", "chosen": [yes], "rejected": [no]}), &two[..]),
        (json!({"prompt": "hi", "chosen": [hi, yes], "rejected": [hi, no]}), &two),
        (json!({"prompt": [hi], "chosen": [hi, yes], "rejected": [hi, no]}), &two),
        (json!({"prompt": [hi], "completion": [hi, yes]}), &two[..2]),
        (json!({"prompt": "hi", "completion": [hi, yes]}), &two[..2]),
        // UltraChat and UltraFeedback say their prompt twice.
        (
            json!({"prompt": "hi", "prompt_id": "x", "messages": [hi, yes]}),
            &["user: hi", "assistant: yes"],
        ),
        (
            json!({"prompt": "hi", "chosen": [hi, yes], "rejected": [hi, no], "messages": [hi, yes], "score_chosen": 8.0}),
            &two,
        ),
        // Alpaca's rendering, and Dolly's context.
        (
            json!({"instruction": "Add.", "input": "1 2", "output": "3", "text": "Add.\n1 2\n3"}),
            &["user: Add.\n1 2", ">assistant: 3"],
        ),
        (
            json!({"instruction": "Where?", "context": "In the sea.", "output": "There.", "category": "qa"}),
            &["user: Where?\nIn the sea.", ">assistant: There."],
        ),
    ] {
        let set = read(&line, &ReadConfig::default()).unwrap();
        assert_eq!(said(set.row(0)), wanted, "{line}");
        assert_eq!(set.remarks(), [""; 0], "{line}");
    }
}

#[test]
fn text_that_looks_like_json_stays_text_in_json_lines() {
    let (object, list) = (r#"{"city": "Paris"}"#, r#"[{"city": "Paris"}]"#);
    let turns = r#"[{"role": "user", "content": "a"}]"#;
    for text in [object, list, turns, "[]", "{city: broken}"] {
        for (line, wanted) in [
            (
                json!({"prompt": "p", "completion": text}),
                vec!["p".to_owned(), format!(">{text}")],
            ),
            (
                json!({"prompt": text, "completion": "c"}),
                vec![text.to_owned(), ">c".to_owned()],
            ),
            (
                json!({"prompt": [turn("user", "p")], "completion": text}),
                vec!["user: p".to_owned(), format!(">assistant: {text}")],
            ),
            (
                json!({"instruction": "i", "input": text, "output": text}),
                vec![format!("user: i\n{text}"), format!(">assistant: {text}")],
            ),
            (
                json!({"prompt": "p", "chosen": text, "rejected": "r"}),
                vec!["p".to_owned(), format!(">{text}"), "p".to_owned(), ">r".to_owned()],
            ),
            (json!({"text": text}), vec![text.to_owned()]),
            (
                json!({"input": text, "ideal": text}),
                vec![text.to_owned(), format!(">{text}")],
            ),
        ] {
            assert_eq!(said(&row(&line)), wanted, "{line}");
        }
    }
}

#[test]
fn a_prompt_is_never_guessed_while_a_column_may_hold_it() {
    for (beside, named) in [
        (
            json!({"question": "What is the capital?", "system": "Be brief."}),
            "`system`, `question`",
        ),
        (json!({"query": "Capital?"}), "`query`"),
        (json!({"context": "France."}), "`context`"),
        (json!({"input": "France."}), "`input`"),
        (json!({"source_text": "A long passage of words"}), "`source_text`"),
        (json!({"history": [["a", "b"]]}), "`history`"),
    ] {
        let mut line = json!({"chosen": "It is Paris.", "rejected": "It is Rome."});
        line.as_object_mut()
            .unwrap()
            .extend(beside.as_object().unwrap().clone());
        let message = read(&line, &ReadConfig::default()).unwrap_err().to_string();
        for name in named.split(", ") {
            assert!(message.contains(name), "{line}: {message}");
        }
        assert!(
            message.starts_with("`rows.jsonl` line 1: wanted a `prompt`")
                && message.contains("\nhint: map it, e.g. columns"),
            "{message}"
        );
        // Whoever asks for it has the beginning taken.
        let asked = ReadConfig {
            shape: Some(Shape::ImplicitPreference),
            ..ReadConfig::default()
        };
        assert_eq!(said(read(&line, &asked).unwrap().row(0))[0], "It is");
    }
    // What is known to be no prompt does not hinder.
    let line = json!({"chosen": "It is Paris.", "rejected": "It is Rome.", "id": "a b", "source": "the web", "score_chosen": 1,
        "chosen_model": "a b", "question": "It is"});
    assert_eq!(said(&row(&line))[0], "It is");
}

#[test]
fn a_mapped_question_is_the_prompt_with_its_system_turn() {
    let line =
        json!({"system": "Be brief.", "question": "Capital?", "chosen": "It is Paris.", "rejected": "It is Rome."});
    let config = ReadConfig {
        columns: [("instruction".to_owned(), "question".to_owned())].into(),
        ..ReadConfig::default()
    };
    let set = read(&line, &config).unwrap();
    assert_eq!(set.shape(), Shape::AlpacaPreference);
    let wanted = ["system: Be brief.", "user: Capital?", ">assistant: It is Paris."];
    assert_eq!(said(set.row(0))[..3], wanted);
}

#[test]
fn a_system_prompt_beside_plain_texts_is_refused_unless_the_shape_is_chosen() {
    for (line, shape) in [
        (
            json!({"system": "s t", "prompt": "p", "completion": "c"}),
            "prompt_completion",
        ),
        (
            json!({"system_prompt": "s t", "prompt": "p", "chosen": "c", "rejected": "r"}),
            "preference",
        ),
        (json!({"system": "s t", "text": "t"}), "text"),
        (json!({"system": "s t", "input": "i", "ideal": "c"}), "eval"),
    ] {
        let message = read(&line, &ReadConfig::default()).unwrap_err().to_string();
        assert!(
            message.contains(&format!("(shape `{shape}`), which have no system turn\nhint: ")),
            "{message}"
        );
        let chosen = ReadConfig {
            shape: Shape::named(shape),
            ..ReadConfig::default()
        };
        let set = read(&line, &chosen).unwrap();
        assert_eq!(set.remarks().len(), 1, "{line}");
    }
    // A text that holds it already loses nothing.
    let line = json!({"system": "s t", "prompt": "s t: p", "completion": "c"});
    assert_eq!(said(&row(&line)), ["s t: p", ">c"]);
}

#[test]
fn columns_that_may_hold_a_part_of_the_prompt_are_named() {
    let chat = json!([turn("user", "hi"), turn("assistant", "yes")]);
    for (line, column) in [
        (
            json!({"prompt": "p", "completion": "c", "context": "France."}),
            "context",
        ),
        (json!({"messages": chat, "question": "Capital?"}), "question"),
        (json!({"text": "t", "label": "a", "question": "Capital?"}), "question"),
        (
            json!({"instruction": "i", "input": "j", "context": "France.", "output": "o"}),
            "context",
        ),
        (
            json!({"prompt": "p", "completion": "c", "tools": [{"name": "f"}]}),
            "tools",
        ),
        (json!({"messages": chat, "functions": [{"name": "f"}]}), "functions"),
    ] {
        let set = read(&line, &ReadConfig::default()).unwrap();
        let [remark] = set.remarks() else {
            panic!("{line}: {:?}", set.remarks())
        };
        let wanted = format!("column `{column}` is not read (shape `{}`)", set.shape().name());
        assert!(remark.contains(&wanted) && remark.contains("\nhint: "), "{remark}");
        assert_eq!(set.unused_columns(), [column]);
    }
    // So is any other text, but for what is known to be no text of a row.
    for (column, value) in [("explanation", "Because it is."), ("response", "Yes")] {
        let mut line = json!({"text": "t"});
        line[column] = json!(value);
        let set = read(&line, &ReadConfig::default()).unwrap();
        assert!(
            set.remarks()[0].contains("its text is neither given to the model nor learnt"),
            "{line}"
        );
    }
    // Repeated text is no loss, and other columns are listed without a remark.
    for line in [
        json!({"messages": chat, "question": "hi"}),
        json!({"prompt": "p q", "completion": "c", "context": "q", "id": 3}),
    ] {
        assert_eq!(
            read(&line, &ReadConfig::default()).unwrap().remarks(),
            [""; 0],
            "{line}"
        );
    }
    let set = read(&json!({"text": "a", "url": "x", "year": 3}), &ReadConfig::default()).unwrap();
    assert_eq!(
        (set.remarks().len(), set.unused_columns()),
        (0, &["url".to_owned(), "year".to_owned()][..])
    );
}

#[test]
fn pictures_and_sounds_are_refused() {
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}, turn("assistant", "a cat")]});
    for line in [
        part(json!({"type": "image"})),
        part(json!({"type": "image_url", "image_url": {"url": "a.png"}})),
        part(json!({"type": "input_audio", "input_audio": {}})),
        json!({"messages": [turn("user", "<image>what is it?"), turn("assistant", "a cat")], "images": ["a.png"]}),
        json!({"prompt": "what?", "completion": "a cat", "image": "a.png"}),
        json!({"prompt": "what?", "image": "a.png"}),
        json!({"messages": [{"role": "user", "content": "what?", "images": ["a.png"]}, turn("assistant", "a cat")]}),
    ] {
        let message = read(&line, &ReadConfig::default()).unwrap_err().to_string();
        assert!(
            message.contains("wanted text, found a ") && message.contains("\nhint: only text is trained here"),
            "{message}"
        );
    }
    // Parts of text are text, also where a table pads them.
    let line = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "what", "image": null}, " now?"]}, turn("assistant", "a")]});
    assert_eq!(said(&row(&line))[0], "user: what now?");
}

#[test]
fn null_and_empty_are_absent() {
    let chat = [turn("user", "hi"), turn("assistant", "yes")];
    let plain = row(&json!({"messages": chat}));
    for (beside, value) in [
        ("tools", json!([])),
        ("tools", json!(null)),
        ("tools", json!("")),
        ("tools", json!("[]")),
        ("documents", json!([])),
        ("chat_template_kwargs", json!({})),
        ("chat_template_kwargs", json!(null)),
        ("system", json!(null)),
        ("images", json!([])),
        ("prompt", json!("")),
        ("text", json!(null)),
    ] {
        let mut line = json!({"messages": chat});
        line[beside] = value;
        assert_eq!(row(&line), plain, "{line}");
    }
    for (name, value) in [
        ("weight", json!(null)),
        ("weight", json!("")),
        ("train", json!(null)),
        ("tool_calls", json!(null)),
        ("tool_calls", json!([])),
        ("function_call", json!(null)),
        ("name", json!(null)),
    ] {
        let mut line = json!({"messages": chat});
        line["messages"][1][name] = value.clone();
        assert_eq!(row(&line), plain, "{line}");
        let mut line = json!({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]});
        line["conversations"][1][name] = value;
        assert_eq!(row(&line), plain, "{line}");
    }
    let silent = json!({"messages": [{"role": "system", "content": null}, chat[0], chat[1]]});
    assert_eq!(row(&silent), plain);
    let silent = json!({"conversations": [{"from": "system", "value": null}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]});
    assert_eq!(row(&silent), plain);
    let alpaca = row(&json!({"instruction": "hi", "output": "yes"}));
    for (beside, value) in [
        ("history", json!([])),
        ("history", json!(null)),
        ("history", json!("")),
        ("history", json!("[]")),
        ("input", json!(null)),
        ("input", json!("")),
        ("context", json!(null)),
        ("label", json!("")),
    ] {
        let mut line = json!({"instruction": "hi", "output": "yes"});
        line[beside] = value;
        assert_eq!(row(&line), alpaca, "{line}");
    }
    let calls = |content: Option<Value>| {
        let mut line = json!({"messages": [chat[0], {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]});
        if let Some(content) = content {
            line["messages"][1]["content"] = content;
        }
        said(&row(&line))
    };
    for content in [None, Some(json!(null)), Some(json!("")), Some(json!([]))] {
        assert_eq!(calls(content), ["user: hi", "assistant: "]);
    }
}

#[test]
fn a_misspelt_content_is_refused() {
    for turn in [
        json!({"role": "user", "contents": "a"}),
        json!({"role": "assistant", "text": "a"}),
    ] {
        let message = read(&json!({"messages": [turn]}), &ReadConfig::default())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("`messages[0]`: wanted an object with `role` and `content`"),
            "{message}"
        );
    }
}

#[test]
fn rows_of_another_shape_are_refused_by_their_line() {
    for (lines, wanted) in [
        (
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\", \"completion\": \"b\", \"label\": false}",
            "line 2: wanted a row of shape `prompt_completion`, as the first row is, found one of shape `unpaired`",
        ),
        (
            "{\"text\": \"a\"}\n{\"text\": \"b\", \"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}",
            "line 2: wanted a row of shape `text`, as the first row is, found one of shape `messages`",
        ),
    ] {
        let parse = |config: &ReadConfig| Dataset::parse(Path::new("rows.jsonl"), lines.as_bytes(), config);
        let message = parse(&ReadConfig::default()).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
        let first = support::rows(lines.lines().next().unwrap()).shape();
        let chosen = ReadConfig {
            shape: Some(first),
            ..ReadConfig::default()
        };
        assert_eq!(parse(&chosen).unwrap().len(), 2);
    }
}

#[test]
fn texts_with_and_without_a_label_stand_in_one_file() {
    let rows =
        support::rows("{\"text\": \"a\"}\n{\"text\": \"b\", \"label\": \"x\"}\n{\"text\": \"c\", \"label\": null}");
    let said: Vec<Vec<String>> = rows.rows().map(said).collect();
    assert_eq!(
        said,
        [
            vec!["a".to_owned()],
            vec!["b".to_owned(), "Name(\"x\")".to_owned()],
            vec!["c".to_owned()]
        ]
    );
}

#[test]
fn columns_that_are_not_there_or_not_read_are_refused() {
    let read = |line: Value, columns: &[(&str, &str)]| {
        let columns = columns
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        self::read(
            &line,
            &ReadConfig {
                columns,
                ..ReadConfig::default()
            },
        )
    };
    let line = json!({"question": "a", "completion": "b"});
    let message = read(line.clone(), &[("prompt", "qestion")]).unwrap_err().to_string();
    assert!(
        message.contains("wanted a column of the file for `prompt`: one of `question`, `completion`, found `qestion`"),
        "{message}"
    );
    let message = read(json!({"text": "b", "question": "a"}), &[("promt", "question")])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("wanted a name that rows of shape `text` read, found promt = \"question\""),
        "{message}"
    );
    // A file that has the right name already is read as it is, and two columns may change places.
    let set = read(json!({"prompt": "a", "completion": "b"}), &[("prompt", "question")]).unwrap();
    assert_eq!(said(set.row(0)), ["a", ">b"]);
    let swapped = read(
        json!({"prompt": "a", "completion": "b"}),
        &[("prompt", "completion"), ("completion", "prompt")],
    );
    assert_eq!(said(swapped.unwrap().row(0)), ["b", ">a"]);
}
