//! The verbs that do not train.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Instant;

use super::command::{Home, answer, command, finetune, root, tiny};

#[test]
fn help_is_quick_and_shows_an_example() {
    let home = Home::new();
    for verb in [
        "train", "generate", "chat", "score", "evaluate", "merge", "export", "import", "inspect", "estimate", "doctor",
    ] {
        let help = finetune(&home, &[verb, "--help"]).works();
        assert!(
            help.stdout.contains(&format!("Example:\n  finetune {verb}")),
            "{}",
            help.stdout
        );
    }
    // The best of some: what others do on this machine is not help's fault.
    let quickest = (0..5)
        .map(|_| {
            let begun = Instant::now();
            finetune(&home, &["--help"]).works();
            begun.elapsed()
        })
        .min();
    assert!(quickest.is_some_and(|time| time.as_millis() < 1500), "{quickest:?}");
}

#[test]
fn generating_is_greedy_and_repeatable_and_rows_become_lines() {
    let home = Home::new();
    let model = tiny().display().to_string();
    let base = ["generate", "--model", &model, "--dtype", "f32", "--max-new-tokens", "8"];
    let with = |more: &[&str]| finetune(&home, &[&base[..], more].concat()).works();
    let first = with(&["--prompt", "What is slow?"]).stdout;
    assert_eq!(with(&["--prompt", "What is slow?"]).stdout, first);
    let sampled = |seed: &str| with(&["--prompt", "What is slow?", "--temperature", "2", "--seed", seed]).stdout;
    assert_eq!(sampled("3"), sampled("3"));
    assert_ne!(sampled("3"), sampled("4"));
    let chats = home.chats();
    let rows = with(&["--data", &chats]).json_lines();
    assert_eq!(rows.len(), 24);
    assert_eq!(rows[0]["prompt"], "Who comes first? 0");
    assert_eq!(rows[0]["reference"], "The early bird catches the worm.");
    assert!(
        rows[0]["tokens"].as_u64().is_some_and(|tokens| tokens <= 8) && rows[0]["text"].is_string(),
        "{}",
        rows[0]
    );
    // A batch of prompts and each alone give the same.
    let alone = with(&["--prompt", "Who comes first? 0", "--json"]).json_lines();
    assert_eq!(alone[0]["text"], rows[0]["text"]);
    assert_ne!(with(&["--prompt", "What is slow?", "--no-chat"]).stdout, first);
}

#[test]
fn a_chat_answers_line_by_line() {
    let home = Home::new();
    let model = tiny().display().to_string();
    let mut command = command(&home);
    command.args([
        "chat",
        "--model",
        &model,
        "--max-new-tokens",
        "4",
        "--system",
        "Be brief.",
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"What is slow?\n/reset\nWhat is slow?\n/quit\nnever read\n")
        .unwrap();
    let found = answer(child.wait_with_output().unwrap()).works();
    let lines: Vec<&str> = found.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn scores_add_up_to_the_summary() {
    let home = Home::new();
    let model = tiny().display().to_string();
    let texts = home.texts();
    let mut lines = finetune(
        &home,
        &["score", "--model", &model, "--data", &texts, "--json", "--dtype", "f32"],
    )
    .works()
    .json_lines();
    let summary = lines.pop().unwrap();
    assert_eq!(lines.len(), 24);
    let sum = |name: &str| lines.iter().map(|line| line[name].as_f64().unwrap()).sum::<f64>();
    let predicted = sum("tokens") - 24.0;
    let perplexity = (-sum("log_prob") / predicted).exp();
    assert!((summary["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-9);
    let bits = -sum("log_prob") / std::f64::consts::LN_2 / sum("bytes");
    assert!((summary["bits_per_byte"].as_f64().unwrap() / bits - 1.0).abs() < 1e-9);
    let spoken = finetune(&home, &["score", "--model", &model, "--data", &texts]).works();
    assert!(
        spoken
            .stdout
            .lines()
            .last()
            .is_some_and(|line| line.contains("bits per byte")),
        "{}",
        spoken.stdout
    );
}

#[test]
fn a_merged_model_scores_as_its_adapter_does() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe]).works();
    let (model, adapter, merged, texts) = (
        tiny().display().to_string(),
        home.at("run"),
        home.at("merged"),
        home.texts(),
    );
    finetune(
        &home,
        &["merge", "--model", &model, "--adapter", &adapter, "--output", &merged],
    )
    .works();
    let perplexity = |args: &[&str]| {
        let all = [&["score", "--data", &texts, "--json", "--dtype", "f32"][..], args].concat();
        finetune(&home, &all).works().json_lines().pop().unwrap()["perplexity"]
            .as_f64()
            .unwrap()
    };
    let (with, alone, before) = (
        perplexity(&["--model", &model, "--adapter", &adapter]),
        perplexity(&["--model", &merged]),
        perplexity(&["--model", &model]),
    );
    assert!((with / alone - 1.0).abs() < 1e-5, "{with} {alone}");
    assert!((with / before - 1.0).abs() > 1e-3, "{with} {before}");
}

#[test]
fn a_gguf_file_is_imported_and_exported() {
    let home = Home::new();
    let gguf = root()
        .join("crates/golden/vectors/gguf/tiny.gguf")
        .display()
        .to_string();
    finetune(&home, &["import", &gguf, "--name", "tiny"]).works();
    let texts = home.texts();
    let perplexity = |model: &str| {
        let args = ["score", "--model", model, "--data", &texts, "--json", "--dtype", "f32"];
        finetune(&home, &args).works().json_lines().pop().unwrap()["perplexity"]
            .as_f64()
            .unwrap()
    };
    // By its name in the store.
    assert!((perplexity("tiny") / perplexity(&gguf) - 1.0).abs() < 1e-6);
    let out = home.at("out");
    finetune(
        &home,
        &[
            "export", "--model", "tiny", "--format", "hf", "--output", &out, "--dtype", "bf16",
        ],
    )
    .works();
    let facts = finetune(&home, &["inspect", &out, "--json", "--tensors"])
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(facts["dtype"], "bfloat16");
    assert_eq!(facts["tensors"][0]["dtype"], "bfloat16");
    assert!((perplexity(&out) / perplexity("tiny") - 1.0).abs() < 0.02);
}

#[test]
fn inspecting_says_what_a_thing_is() {
    let home = Home::new();
    let model = tiny().display().to_string();
    let facts = finetune(&home, &["inspect", &model, "--json"])
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(
        (facts["layers"].as_u64(), facts["vocabulary"].as_u64()),
        (Some(2), Some(311))
    );
    assert_eq!(facts["end_tokens"], serde_json::json!(["<|im_end|>"]));
    let chats = home.chats();
    let facts = finetune(&home, &["inspect", &chats, "--json"])
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(
        (facts["shape"].as_str(), facts["rows"].as_u64()),
        (Some("messages"), Some(24))
    );
    let shown = finetune(&home, &["inspect", &chats, "--model", &model, "--rows", "1"])
        .works()
        .stdout;
    // The answer and its end token are trained, the question is not.
    assert!(
        shown.contains("[[The early bird catches the worm.<|im_end|>"),
        "{shown}"
    );
    assert!(!shown.contains("[[<|im_start|>user"), "{shown}");
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe, "--set", "train.max_steps=1"]).works();
    let facts = finetune(&home, &["inspect", &home.at("run"), "--json"])
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(
        (facts["rank"].as_u64(), facts["alpha"].as_f64(), facts["task"].as_str()),
        (Some(3), Some(6.0), Some("CAUSAL_LM"))
    );
}

#[test]
fn an_evaluation_is_held_against_an_earlier_one() {
    let home = Home::new();
    let texts = home.texts();
    let suite = home.file(
        "suite.toml",
        &format!("[[task]]\nname = \"texts\"\nkind = \"perplexity\"\ndata = {texts:?}\nmax_length = 128\n"),
    );
    let model = tiny().display().to_string();
    let args = ["evaluate", "--model", &model, "--suite", &suite, "--dtype", "f32"];
    let report = finetune(&home, &[&args[..], &["--json"]].concat()).works().stdout;
    let before = home.file("before.json", &report);
    finetune(&home, &[&args[..], &["--compare", &before]].concat()).works();
    let mut better: serde_json::Value = serde_json::from_str(&report).unwrap();
    let perplexity = better["tasks"]["texts"]["perplexity"].as_f64().unwrap();
    better["tasks"]["texts"]["perplexity"] = (perplexity * 0.9).into();
    let better = home.file("better.json", &better.to_string());
    finetune(&home, &[&args[..], &["--compare", &better]].concat()).fails_with(1, &["worse than", "texts"]);
    let broken = home.file(
        "suite2.toml",
        "[[task]]\nname = \"a\"\nkind = \"perplexty\"\ndata = \"x\"\n",
    );
    finetune(&home, &["evaluate", "--model", &model, "--suite", &broken]).fails_with(1, &["suite2.toml", "perplexty"]);
}

#[test]
fn an_estimate_says_afterwards_how_wrong_it_was() {
    let home = Home::new();
    let recipe = home.recipe("");
    let before = finetune(&home, &["estimate", &recipe, "--json"])
        .works()
        .json_lines()
        .remove(0);
    assert!(
        before["memory"]["peak"].as_f64().is_some_and(|peak| peak > 1e6) && before["run"].is_null(),
        "{before}"
    );
    assert_eq!(before["time"]["steps"].as_f64(), Some(6.0));
    finetune(&home, &["train", &recipe]).works();
    let after = finetune(&home, &["estimate", &recipe]).works().stdout;
    assert!(after.contains("the estimate is off by"), "{after}");
}

#[test]
fn the_doctor_knows_this_machine() {
    let home = Home::new();
    let found = finetune(&home, &["doctor", "--json"]).works().json_lines().remove(0);
    assert!(
        found["physical_cores"].as_u64().is_some_and(|cores| cores > 0),
        "{found}"
    );
    assert!(
        found["libtorch"].is_string() && found["matmul_f32"].is_string(),
        "{found}"
    );
}
