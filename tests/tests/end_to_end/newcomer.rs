//! What a new user meets: a classifier that is used, output that names its rows, wrong flags, a missing adapter.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::command::{Answer, Home, answer, finetune, tiny};

/// The tiny model's path.
fn model() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| tiny().display().to_string());
    PATH.as_str()
}

/// A LoRA adapter of the tiny model in the folder `run`, trained with these settings.
fn trained(home: &Home, settings: &[&str]) -> (String, Answer) {
    let recipe = home.recipe("");
    let mut args = vec!["train", recipe.as_str()];
    for setting in settings {
        args.extend(["--set", setting]);
    }
    let answer = finetune(home, &args).works();
    (home.at("run"), answer)
}

fn classifier(home: &Home) -> (String, Answer) {
    let data = format!("data.train.0.path={}", home.classes());
    let settings = [
        "objective.kind=classify",
        "train.max_steps=40",
        "train.save_steps=40",
        "train.learning_rate=2e-2",
        &data,
    ];
    trained(home, &settings)
}

#[test]
fn a_classifier_labels_new_rows_with_probabilities() {
    let home = Home::new();
    let (run, training) = classifier(&home);
    // What was logged and hinted while it was trained.
    assert!(training.stderr.contains("24 labelled samples"), "{}", training.stderr);
    assert!(!training.stderr.contains("0 of them trained"), "{}", training.stderr);
    let hint = format!("try it: finetune classify --model {} --adapter {run} --text", model());
    assert!(training.stderr.contains(&hint), "{}", training.stderr);

    let new = home.file(
        "new.jsonl",
        "{\"text\": \"What glitters? good\", \"label\": \"good\"}\n{\"text\": \"What is quick? bad\", \"label\": \"bad\"}\n{\"text\": \"Who comes first? good\", \"label\": \"bad\"}\n",
    );
    let base = ["--model", model(), "--adapter", &run, "--dtype", "f32"];
    let with = |verb: &str, more: &[&str]| finetune(&home, &[&[verb][..], &base[..], more].concat()).works();
    let labelled = with("classify", &["--data", &new, "--json"]);
    let rows = labelled.json_lines();
    for (idx, (row, label)) in rows.iter().zip(["good", "bad", "good"]).enumerate() {
        assert_eq!(
            (row["index"].as_u64(), row["label"].as_str()),
            (Some(idx as u64), Some(label)),
            "{row}"
        );
        let (bad, good) = (&row["probabilities"]["bad"], &row["probabilities"]["good"]);
        let sum = bad.as_f64().unwrap() + good.as_f64().unwrap();
        assert!(
            (sum - 1.0).abs() < 1e-9 && row["probability"] == row["probabilities"][label],
            "{row}"
        );
        assert!(row["probability"].as_f64().unwrap() > 0.5, "{row}");
    }
    assert_eq!(rows[0]["text"], "What glitters? good");
    assert_eq!(
        (&rows[0]["reference"], &rows[1]["reference"]),
        (&json!("good"), &json!("bad"))
    );
    assert!(
        labelled.stderr.contains("2 of 3 labels are the rows' own (66.7 %)"),
        "{}",
        labelled.stderr
    );
    // Rows without labels are labelled alike, and compared with nothing.
    let plain = home.file("plain.jsonl", "{\"text\": \"What glitters? good\"}\n");
    let found = with("classify", &["--data", &plain, "--json"]);
    let row = found.json_lines().remove(0);
    assert!(row.get("reference").is_none() && row["label"] == "good", "{row}");
    assert!(!found.stderr.contains("the rows' own"), "{}", found.stderr);
    // `generate` does the same, and a text alone gives what its row gives.
    assert_eq!(with("generate", &["--data", &new]).stdout, labelled.stdout);
    let alone = with("classify", &["--text", "What glitters? good", "--json"])
        .json_lines()
        .remove(0);
    // Products of another number of rows add up in another order.
    for label in ["good", "bad"] {
        let [alone, among] = [&alone, &rows[0]].map(|row| row["probabilities"][label].as_f64().unwrap());
        assert!((alone - among).abs() < 1e-5, "{label}: {alone} {among}");
    }
    let shown = with("classify", &["--text", "What glitters? good"]).stdout;
    assert!(shown.starts_with("good ") && shown.contains(" %, bad "), "{shown}");
    assert_eq!(with("generate", &["--prompt", "What glitters? good"]).stdout, shown);
    let table = with("classify", &["--data", &new]).stdout;
    assert_eq!(table.lines().count(), 3);
    assert!(
        table.lines().nth(1).unwrap().ends_with("\tWhat is quick? bad"),
        "{table}"
    );

    // What it cannot do names what it can.
    for (verb, more) in [("chat", &[][..]), ("score", &["--data", new.as_str()][..])] {
        let refused = finetune(&home, &[&[verb][..], &base[..], more].concat());
        let command = format!("`finetune classify --model {} --adapter {run} --text TEXT`", model());
        refused.fails_with(1, &["a classifier of 2 labels", &command]);
    }
    finetune(&home, &["classify", "--model", model(), "--text", "a"])
        .fails_with(1, &["wanted a classifier, found a language model", "hint: "]);
    let odd = home.file(
        "odd.jsonl",
        "{\"text\": \"a\", \"label\": \"good\"}\n{\"text\": \"a\", \"label\": \"ugly\"}\n",
    );
    let refused = finetune(
        &home,
        &[&["classify"][..], &base[..], &["--data", odd.as_str()][..]].concat(),
    );
    refused.fails_with(1, &["odd.jsonl", "line 2", "ugly", "good"]);
}

#[test]
fn a_reward_model_scores_texts_and_pairs() {
    let home = Home::new();
    let data = format!("data.train.0.path={}", home.pairs());
    let (run, training) = trained(&home, &["objective.kind=reward", &data]);
    assert!(training.stderr.contains("24 pairs of replies"), "{}", training.stderr);
    assert!(
        training.stderr.contains("try it: finetune classify "),
        "{}",
        training.stderr
    );
    let pair = home.file(
        "pair.jsonl",
        "{\"prompt\": \"Who comes first? \", \"chosen\": \"The early bird.\", \"rejected\": \"Gold.\"}\n",
    );
    let reply = home.file(
        "reply.jsonl",
        "{\"prompt\": \"Who comes first? \", \"completion\": \"The early bird.\"}\n{\"prompt\": \"Who comes first? \", \"completion\": \"Gold.\"}\n",
    );
    let rows = |file: &str| {
        let args = [
            "classify",
            "--model",
            model(),
            "--adapter",
            &run,
            "--dtype",
            "f32",
            "--json",
            "--data",
            file,
        ];
        finetune(&home, &args).works().json_lines()
    };
    let (both, each) = (rows(&pair).remove(0), rows(&reply));
    for (row, key) in each.iter().zip(["score_chosen", "score_rejected"]) {
        let (found, wanted) = (row["score"].as_f64().unwrap(), both[key].as_f64().unwrap());
        assert!((found - wanted).abs() < 1e-4, "{row} {both}");
    }
}

#[test]
fn rows_of_output_name_their_row_and_their_adapter() {
    let home = Home::new();
    let (run, _) = trained(&home, &["train.learning_rate=5e-2"]);
    let data = home.file(
        "rows.jsonl",
        "{\"text\": \"The early bird.\", \"adapter\": \"own\"}\n{\"text\": \"The early bird.\"}\n{\"text\": \"The early bird.\", \"adapter\": {\"own\": 0.5}}\n",
    );
    let named = format!("own={run}");
    let rows = |verb: &str, more: &[&str]| {
        let args = [&[verb, "--model", model(), "--dtype", "f32", "--data", &data][..], more].concat();
        finetune(&home, &args).works()
    };
    let scored = rows("score", &["--adapter", &named, "--text"]);
    let lines: Vec<Value> = scored
        .stdout
        .lines()
        .take(3)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (idx, line) in lines.iter().enumerate() {
        assert_eq!(
            (&line["index"], &line["text"]),
            (&json!(idx), &json!("The early bird.")),
            "{line}"
        );
        let (tokens, predicted) = (line["tokens"].as_u64().unwrap(), line["predicted"].as_u64().unwrap());
        assert!(predicted + 1 == tokens || predicted == tokens, "{line}");
    }
    assert_eq!(
        lines.iter().map(|line| line["adapter"].clone()).collect::<Vec<_>>(),
        [json!("own"), Value::Null, json!({"own": 0.5})]
    );
    assert!(
        scored.stderr.contains("1 of 3 rows have no `adapter`: the base alone"),
        "{}",
        scored.stderr
    );
    // The row without a choice is the base's, not the adapter's.
    let base = rows("score", &["--json"]).json_lines();
    let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4;
    assert!(near(&lines[1]["log_prob"], &base[1]["log_prob"]), "{lines:?}");
    assert!(
        !near(&lines[0]["log_prob"], &base[0]["log_prob"]),
        "the adapter changes nothing: {lines:?}"
    );
    assert!(
        base[0].get("adapter").is_none() && base[0].get("text").is_none(),
        "{}",
        base[0]
    );

    let answered = rows("generate", &["--adapter", &named, "--max-new-tokens", "3"]);
    let lines = answered.json_lines();
    assert_eq!((&lines[2]["index"], &lines[0]["adapter"]), (&json!(2), &json!("own")));
    let speed = answered.stderr.lines().find(|line| line.ends_with("tokens/s"));
    assert!(
        speed.is_some_and(|line| line.contains(" tokens in ")),
        "{}",
        answered.stderr
    );
    // Where nothing can choose, it is told who answers.
    let args = [
        "generate",
        "--model",
        model(),
        "--adapter",
        &named,
        "--prompt",
        "a",
        "--max-new-tokens",
        "2",
    ];
    let alone = finetune(&home, &args).works();
    assert!(
        alone.stderr.contains("`own`, the first, takes part"),
        "{}",
        alone.stderr
    );
}

#[test]
fn a_regression_is_shown_with_its_figures() {
    let home = Home::new();
    let texts = home.texts();
    let suite = home.file(
        "suite.toml",
        &format!(
            "[[task]]\nname = \"general\"\nkind = \"perplexity\"\ndata = {texts:?}\nmax_length = 64\ntolerance = 0.05\n"
        ),
    );
    let before = home.file(
        "before.json",
        "{\"model\": \"m\", \"tasks\": {\"general\": {\"kind\": \"perplexity\", \"rows\": 24, \"seconds\": 1.0, \"perplexity\": 2.0}}}",
    );
    for json in [&["--json"][..], &[]] {
        let base = [
            "evaluate",
            "--model",
            model(),
            "--suite",
            suite.as_str(),
            "--compare",
            before.as_str(),
        ];
        let found = finetune(&home, &[&base[..], &["--dtype", "f32"][..], json].concat());
        found.fails_with(
            1,
            &[
                "error: worse than",
                "task general  perplexity 2.0000 -> ",
                "it may rise by 0.05 of what it was",
            ],
        );
        if !json.is_empty() {
            let report = found.json_lines().remove(0);
            assert_eq!(report["changes"][0]["regressed"], true, "{report}");
        }
    }
}

#[test]
fn a_missing_adapter_is_told_with_those_that_are_near() {
    let home = Home::new();
    trained(&home, &["train.max_steps=1"]);
    let refused = |adapter: &str| {
        finetune(
            &home,
            &["generate", "--model", model(), "--adapter", adapter, "--prompt", "a"],
        )
    };
    let near = format!("`{}`", home.at("run"));
    refused(&home.at("rum")).fails_with(
        1,
        &[
            "rum`: wanted the folder of an adapter",
            "no such folder",
            "hint: ",
            &near,
        ],
    );
    refused(model()).fails_with(1, &["found a whole model", "--model"]);
    let file = Path::new(&home.at("run"))
        .join("adapter_model.safetensors")
        .display()
        .to_string();
    refused(&file).fails_with(1, &["found a file", "give its folder", &near]);
    for verb in ["merge", "export"] {
        let out = home.at("out");
        let mut args = vec![verb, "--model", model(), "--adapter", "nope", "--output", &out];
        if verb == "export" {
            args.extend(["--format", "hf"]);
        }
        finetune(&home, &args).fails_with(1, &["`nope`: wanted the folder of an adapter"]);
    }
}

#[test]
fn a_value_outside_its_range_is_wrong_usage() {
    let home = Home::new();
    let model = model();
    let generate = ["generate", "--model", model, "--prompt", "a"];
    let rows: [(&[&str], &str, &[&str]); 10] = [
        (&generate, "--top-p=7", &["--top-p", "from 0 to 1"]),
        (&generate, "--temperature=-1", &["--temperature", "at least 0"]),
        (&generate, "--min-p=x", &["--min-p"]),
        (&generate, "--repetition-penalty=0", &["above 0"]),
        (&generate, "--threads=0", &["--threads", "at least 1"]),
        (&generate, "--device=tpu", &["tpu", "cuda:N"]),
        (&generate, "--dtype=f16", &["f16", "bf16"]),
        (&["chat", "--model", model], "--top-p=-0.5", &["from 0 to 1"]),
        (
            &["reset", "--model", model, "--base", model, "--output", "x"],
            "--fraction=1.5",
            &["from 0 to 1"],
        ),
        (
            &["combine", "--adapter", "a", "--output", "x", "--type", "ties"],
            "--density=0",
            &["above 0, at most 1"],
        ),
    ];
    for (args, wrong, parts) in rows {
        finetune(&home, &[args, &[wrong]].concat()).fails_with(2, parts);
    }
    // Flags that mean nothing together, and a negative number that is not taken for a flag.
    finetune(
        &home,
        &["combine", "--adapter", "a", "--output", "x", "--density", "0.5"],
    )
    .fails_with(2, &["density", "hint: "]);
    finetune(
        &home,
        &["generate", "--model", model, "--prompt", "a", "--temperature", "-1"],
    )
    .fails_with(2, &["at least 0"]);
}

#[test]
fn messages_are_written_for_people() {
    let home = Home::new();
    let prompts = home.file("prompts.jsonl", "{\"prompt\": \"Who?\"}\n");
    for (kind, wanted) in [
        ("perplexity", "a text or a conversation"),
        ("pairs", "two replies"),
        ("exact_match", "right answer"),
    ] {
        let suite = home.file(
            "suite.toml",
            &format!("[[task]]\nname = \"t\"\nkind = \"{kind}\"\ndata = {prompts:?}\nmax_length = 64\n"),
        );
        let found = finetune(&home, &["evaluate", "--model", model(), "--suite", &suite]);
        found.fails_with(1, &[wanted]);
        assert!(
            !found.stderr.contains("Text(") && !found.stderr.contains("PromptOnly"),
            "{}",
            found.stderr
        );
    }
    let rope = finetune(&home, &["inspect", model()]).works().stdout;
    assert!(rope.contains("theta 10000") && !rope.contains("Default"), "{rope}");
}

#[test]
fn the_documented_reward_program_answers_each_request() {
    let page = std::fs::read_to_string(super::command::root().join("docs/rewards.md")).unwrap();
    let (_, rest) = page.split_once("```python\n").expect("the page shows a program");
    let (program, _) = rest.split_once("```").expect("the program ends");
    let home = Home::new();
    let path = home.file("reward.py", program);
    let mut child = Command::new("python3")
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python, which also fetches libtorch");
    let requests = "{\"id\": 0, \"prompt\": \"p\", \"reply\": \"It is red.\", \"answer\": \"red\"}\n{\"id\": 1, \"prompt\": \"p\", \"reply\": \"Blue.\", \"answer\": \"red\"}\n";
    child.stdin.take().unwrap().write_all(requests.as_bytes()).unwrap();
    let found = answer(child.wait_with_output().unwrap()).works().json_lines();
    assert_eq!(found, [json!({"id": 0, "score": 1.0}), json!({"id": 1, "score": 0.0})]);
    // The help tells where to look.
    for verb in ["train", "evaluate"] {
        let help = finetune(&home, &[verb, "--help"]).works().stdout;
        assert!(help.contains("docs/rewards.md"), "{help}");
    }
}

#[test]
fn an_estimate_is_compared_only_with_a_run_in_the_same_numbers() {
    let home = Home::new();
    trained(&home, &[]);
    let recipe = home.at("recipe.toml");
    let estimate = |more: &[&str]| finetune(&home, &[&["estimate", &recipe][..], more].concat()).works();
    let json = |more: &[&str]| estimate(&[more, &["--json"]].concat()).json_lines().remove(0);
    let same = json(&["--dtype", "f32"]);
    assert_eq!(
        (&same["run"]["dtype"], &same["run"]["not_compared"]),
        (&json!("f32"), &Value::Null),
        "{same}"
    );
    assert_eq!(same["time"]["measured"], true, "{same}");
    assert!(same["time"]["tokens_per_second"].as_f64().unwrap() > 0.0, "{same}");
    let other = json(&["--dtype", "bf16"]);
    assert_eq!(
        other["run"]["not_compared"],
        "that run computed in f32, this estimate is for bf16"
    );
    let shown = estimate(&["--dtype", "bf16"]);
    assert!(
        !shown.stdout.contains("is off by") && shown.stdout.contains("not compared"),
        "{}",
        shown.stdout
    );
    assert!(shown.stderr.contains("--dtype f32"), "{}", shown.stderr);
    assert!(estimate(&["--dtype", "f32"]).stdout.contains("the estimate is off by"));
    // Nothing is read of a model whose time is only computed.
    assert_eq!(json(&["--no-measure"])["time"]["measured"], false);
}
