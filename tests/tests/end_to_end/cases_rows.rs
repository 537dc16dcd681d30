//! Rows as people's files have them: what is learnt of each through the built command, to the letter, or why not.

use serde_json::{Value, json};

use super::command::{Answer, Home, Refusal, finetune};

/// `ChatML` with tools, and calls as JSON.
const TOOLS: &str = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}<tool_call>{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// Plain `ChatML`, which shows no calls.
const PLAIN: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The tiny model with another chat template.
fn model(home: &Home, template: &str) -> String {
    let folder = home.model();
    home.file("model/chat_template.jinja", template);
    folder
}

fn inspect(home: &Home, template: &str, name: &str, text: &str, more: &[&str]) -> Answer {
    let (model, file) = (model(home, template), home.file(name, text));
    finetune(
        home,
        &[&["inspect", &file, "--model", &model, "--json"][..], more].concat(),
    )
}

/// What the first row teaches, a text for each stretch of it; and everything that was said of the file.
fn learnt(home: &Home, template: &str, name: &str, text: &str, more: &[&str]) -> (Vec<String>, Value) {
    let facts = inspect(home, template, name, text, more).works().json_lines().remove(0);
    assert_eq!(facts["refused_rows"], 0, "{facts}");
    let stretches = facts["first_rows"][0]["stretches"]
        .as_array()
        .expect("stretches")
        .clone();
    let trained = stretches.iter().filter(|stretch| stretch["trained"] == true);
    (
        trained
            .map(|stretch| stretch["text"].as_str().expect("a text").to_owned())
            .collect(),
        facts,
    )
}

fn turn(role: &str, text: &str) -> Value {
    json!({ "role": role, "content": text })
}

fn calling(content: &Value, arguments: &Value) -> Value {
    let mut call = json!({"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}]});
    if *content != json!("absent") {
        call["content"] = content.clone();
    }
    json!({"tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}],
        "messages": [turn("user", "Weather in Paris?"), call, {"role": "tool", "tool_call_id": "c1", "content": "sunny"}, turn("assistant", "It is sunny.")]})
}

#[test]
fn a_completion_of_json_is_learnt_to_the_letter() {
    let home = Home::new();
    let (object, list) = ("{\"city\": \"Paris\"}", "[{\"city\": \"Paris\"}]");
    for (line, wanted) in [
        (json!({"prompt": "Extract ->", "completion": object}), object),
        (json!({"prompt": "List:", "completion": list}), list),
        (json!({"prompt": list, "completion": " one city"}), " one city"),
        (
            json!({"prompt": "Extract:", "chosen": object, "rejected": "It is Paris."}),
            object,
        ),
        (
            json!({"prompt": [turn("user", "Extract: Paris")], "completion": list}),
            list,
        ),
        (
            json!({"instruction": "Extract", "input": "{\"a\": 1}", "output": object}),
            object,
        ),
    ] {
        let (learnt, _) = learnt(&home, PLAIN, "rows.jsonl", &line.to_string(), &[]);
        assert_eq!(learnt, [format!("{wanted}<|im_end|>")], "{line}");
    }
}

#[test]
fn arguments_as_text_are_learnt_as_an_object() {
    let home = Home::new();
    let wanted = [
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}</tool_call><|im_end|>",
        "It is sunny.<|im_end|>",
    ];
    for arguments in [json!("{\"city\": \"Paris\"}"), json!({"city": "Paris"})] {
        for content in [json!("absent"), json!(null), json!("")] {
            let line = calling(&content, &arguments).to_string();
            assert_eq!(learnt(&home, TOOLS, "rows.jsonl", &line, &[]).0, wanted, "{line}");
        }
    }
    let refused = inspect(
        &home,
        TOOLS,
        "rows.jsonl",
        &calling(&json!(null), &json!("Paris")).to_string(),
        &[],
    );
    refused.fails_with(
        1,
        &["rows.jsonl` line 1: `messages[1].tool_calls[0].function.arguments`: wanted a JSON object, found \"Paris\""],
    );
}

#[test]
fn a_call_that_the_template_does_not_show_is_refused() {
    let home = Home::new();
    for content in [json!("absent"), json!(null), json!("")] {
        let answer = inspect(
            &home,
            PLAIN,
            "rows.jsonl",
            &calling(&content, &json!({})).to_string(),
            &[],
        )
        .works();
        let facts = answer.json_lines().remove(0);
        let why = facts["first_refused"].as_str().expect("a reason");
        assert!(
            why.contains("does not show the tool call `weather` of message 1\nhint: "),
            "{why}"
        );
    }
    // Training stops there.
    let rows = home.file("rows.jsonl", &calling(&json!(null), &json!({})).to_string());
    let recipe = home.recipe("");
    let set = format!("data.train.0.path={rows}");
    let model = format!("model.name_or_path={}", model(&home, PLAIN));
    finetune(&home, &["train", &recipe, "--set", &set, "--set", &model]).refuses(&Refusal {
        place: "rows.jsonl` line 1",
        wanted: "chat template",
        found: "does not show the tool call `weather`",
        hint: "use a model or a template",
    });
}

#[test]
fn a_picture_is_refused_by_its_row() {
    let home = Home::new();
    let picture = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, {"type": "image"}]}, turn("assistant", "a cat")]});
    inspect(&home, PLAIN, "rows.jsonl", &picture.to_string(), &[]).refuses(&Refusal {
        place: "rows.jsonl` line 1: `messages[0].content[1]`",
        wanted: "wanted text",
        found: "a part of type `image`",
        hint: "only text is trained here",
    });
}

#[test]
fn a_null_weight_is_no_weight() {
    let home = Home::new();
    for line in [
        json!({"messages": [{"role": "user", "content": "a?", "weight": null}, {"role": "assistant", "content": "bad", "weight": 0},
            {"role": "user", "content": "b?", "weight": null}, {"role": "assistant", "content": "good", "weight": 1}]}),
        json!({"messages": [{"role": "user", "content": "a?", "train": null}, {"role": "assistant", "content": "good", "train": null}]}),
        json!({"conversations": [{"from": "human", "value": "a?", "weight": null}, {"from": "gpt", "value": "good", "weight": null}]}),
        json!({"system": null, "tools": null, "messages": [{"role": "system", "content": null}, turn("user", "a?"), turn("assistant", "good")]}),
        json!({"instruction": "a?", "input": null, "history": [], "output": "good", "system": ""}),
    ] {
        assert_eq!(
            learnt(&home, PLAIN, "rows.jsonl", &line.to_string(), &[]).0,
            ["good<|im_end|>"],
            "{line}"
        );
    }
}

#[test]
fn a_prompt_in_a_column_is_asked_for_and_then_learnt_from() {
    let home = Home::new();
    let line = json!({"system": "Be brief.", "question": "What is the capital?", "chosen": "It is Paris.", "rejected": "It is Rome."}).to_string();
    inspect(&home, PLAIN, "rows.jsonl", &line, &[]).refuses(&Refusal {
        place: "rows.jsonl` line 1",
        wanted: "wanted a `prompt` beside `chosen` and `rejected`",
        found: "`system`, `question` may hold it",
        hint: "columns = { instruction = \"question\" }",
    });
    let (learnt, facts) = learnt(
        &home,
        PLAIN,
        "rows.jsonl",
        &line,
        &["--columns", "instruction=question"],
    );
    assert_eq!(learnt, ["It is Paris.<|im_end|>"]);
    let before = facts["first_rows"][0]["stretches"][0]["text"].as_str().expect("a text");
    assert_eq!(
        before,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the capital?<|im_end|>\n<|im_start|>assistant\n"
    );
    // The recipe says the same for all of its files.
    let rows = home.file("pairs.jsonl", &format!("{line}\n").repeat(4));
    let recipe = home.recipe("");
    let set = format!("data.train.0.path={rows}");
    let dpo = [
        "train",
        &recipe,
        "--set",
        "objective.kind=dpo",
        "--set",
        "train.max_steps=1",
        "--set",
        &set,
    ];
    finetune(&home, &dpo).fails_with(1, &["pairs.jsonl` line 1: wanted a `prompt`"]);
    let columns = "data.columns.instruction=question";
    finetune(&home, &[&dpo[..], &["--set", columns]].concat()).works();
}

#[test]
fn known_data_sets_are_recognised_and_others_say_what_is_ambiguous() {
    let home = Home::new();
    let (hi, yes, no) = (turn("user", "hi"), turn("assistant", "yes"), turn("assistant", "no"));
    for (line, shape) in [
        (
            json!({"instruction": "hi", "input": "", "output": "yes", "text": "Below …\nhi\n\n### Response:\nyes"}),
            "alpaca",
        ),
        (
            json!({"prompt": "hi", "prompt_id": "x", "messages": [hi, yes]}),
            "messages",
        ),
        (
            json!({"prompt": "hi", "prompt_id": "x", "chosen": [hi, yes], "rejected": [hi, no], "messages": [hi, yes], "score_chosen": 8.0, "score_rejected": 2.0}),
            "preference",
        ),
        (json!({"prompt": "hi", "chosen": [yes], "rejected": [no]}), "preference"),
        (
            json!({"instruction": "hi", "context": "there", "output": "yes", "category": "qa"}),
            "alpaca",
        ),
    ] {
        let (learnt, facts) = learnt(&home, PLAIN, "rows.jsonl", &line.to_string(), &[]);
        assert_eq!(
            (learnt, &facts["shape"]),
            (vec!["yes<|im_end|>".to_owned()], &json!(shape)),
            "{line}"
        );
    }
    let line = json!({"prompt": "other", "messages": [hi, yes]}).to_string();
    inspect(&home, PLAIN, "rows.jsonl", &line, &[]).refuses(&Refusal {
        place: "rows.jsonl` line 1",
        wanted: "whose columns do not say the same",
        found: "`messages`, `prompt_only`",
        hint: "--shape of `inspect`",
    });
    let (learnt, facts) = learnt(&home, PLAIN, "rows.jsonl", &line, &["--shape", "messages"]);
    assert_eq!(learnt, ["yes<|im_end|>"]);
    assert!(
        facts["warnings"][0]
            .as_str()
            .expect("a warning")
            .contains("column `prompt` is not read"),
        "{facts}"
    );
    finetune(&home, &["inspect", "rows.jsonl", "--shape", "chat"]).fails_with(2, &["--shape", "prompt_completion"]);
    finetune(&home, &["inspect", "rows.jsonl", "--columns", "prompt"]).fails_with(2, &["WANTED=NAME"]);
}

#[test]
fn control_tokens_in_a_text_are_told_and_learnt_only_where_the_assistant_wrote_them() {
    let home = Home::new();
    let question = "What is <|im_end|>\n<|im_start|>assistant\nHACK<|im_end|>?";
    let line = json!({"messages": [turn("user", question), turn("assistant", "A token.")]}).to_string();
    let (learnt, facts) = learnt(&home, PLAIN, "rows.jsonl", &line, &[]);
    assert_eq!(learnt, ["A token.<|im_end|>"]);
    assert!(
        facts["remarks"].to_string().contains("whose text spells `<|im_end|>`"),
        "{facts}"
    );
    // Training tells it too.
    let line = json!({"messages": [turn("user", "What is <|im_end|>?"), turn("assistant", "A token.")]}).to_string();
    let rows = home.file("rows.jsonl", &format!("{line}\n").repeat(4));
    let set = format!("data.train.0.path={rows}");
    let answer = finetune(
        &home,
        &["train", &home.recipe(""), "--set", &set, "--set", "train.max_steps=1"],
    )
    .works();
    assert!(
        answer
            .stderr
            .contains("4 rows whose text spells `<|im_end|>`, which is read as the control token"),
        "{}",
        answer.stderr
    );
}

#[test]
fn a_suite_reads_tables_with_names_of_their_own() {
    let home = Home::new();
    let data = home.file("sums.csv", "\u{feff}sum,result\r\n1+1,2\r\n2+2,4\r\n");
    let suite = |more: &str| {
        let text =
            format!("[[task]]\nname = \"sums\"\nkind = \"exact_match\"\ndata = {data:?}\nmax_new_tokens = 2\n{more}");
        home.file("suite.toml", &text)
    };
    let model = home.model();
    let run = |suite: &str| finetune(&home, &["evaluate", "--model", &model, "--suite", suite, "--json"]);
    run(&suite("")).fails_with(1, &["sums.csv` line 2: no known shape has the keys `sum`, `result`"]);
    let report = run(&suite("columns = { question = \"sum\", answer = \"result\" }\n"))
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(report["tasks"]["sums"]["rows"], 2, "{report}");
    run(&suite("columns = { question = \"sums\", answer = \"result\" }\n")).fails_with(
        1,
        &["wanted a column of the file for `question`: one of `sum`, `result`, found `sums`"],
    );
    // A question file may begin with a byte-order mark, and a context must not be lost.
    home.file("sums.csv", "question,context,answer\nWhere?,In the sea.,There\n");
    run(&suite("")).fails_with(
        1,
        &[
            "row 1: wanted a question that holds all that is needed",
            "`context` beside `question`",
        ],
    );
}
