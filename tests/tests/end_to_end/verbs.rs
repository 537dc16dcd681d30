//! The verbs that do not train.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use super::command::{Home, answer, command, finetune, root, tiny};

#[test]
fn help_is_quick_and_shows_an_example() {
    let home = Home::new();
    for verb in [
        "train",
        "generate",
        "chat",
        "classify",
        "score",
        "evaluate",
        "analyse",
        "merge",
        "combine",
        "forget",
        "reset",
        "export",
        "fetch",
        "import",
        "pipeline",
        "inspect",
        "estimate",
        "doctor",
        "completions",
        "man",
    ] {
        let help = finetune(&home, &[verb, "--help"]).works();
        assert!(
            help.stdout.contains(&format!("Example:\n  finetune {verb}")),
            "{}",
            help.stdout
        );
    }
    // The best of some, in time of the processor: neither what others do on this machine nor how long it takes to load
    // libtorch is help's fault. Where loading takes 0.2 s, help is there within the 0.3 s that are promised.
    let quickest = |called: &dyn Fn() -> Command, args: &[&str]| {
        (0..8)
            .map(|_| processor_seconds(&called(), args))
            .fold(f64::MAX, f64::min)
    };
    let help = quickest(&|| command(&home), &["--help"]);
    let loading = quickest(&|| Command::new(env!("CARGO_BIN_EXE_loads-libtorch")), &[]);
    assert!(
        help - loading < 0.1,
        "{help} s, of which loading libtorch takes {loading} s"
    );
}

#[test]
fn a_shell_accepts_its_completions_and_offers_every_verb() {
    let home = Home::new();
    let script = finetune(&home, &["completions", "bash"]).works().stdout;
    let path = home.path().join("finetune.bash");
    std::fs::write(&path, script).unwrap();
    // What bash offers after `finetune comp` and after `finetune train --res`.
    for (words, wanted) in [("finetune comp", "completions"), ("finetune train --res", "--resume")] {
        let ask = format!(
            "source '{}'; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); \
             _finetune finetune \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\"",
            path.display()
        );
        let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
        let offered = String::from_utf8_lossy(&output.stdout);
        assert_eq!(offered.trim(), wanted, "{}", String::from_utf8_lossy(&output.stderr));
    }
    finetune(&home, &["completions", "basic"]).fails_with(2, &["basic", "bash"]);
}

#[test]
fn manual_pages_name_flags_and_examples() {
    let home = Home::new();
    let page = finetune(&home, &["man", "train"]).works().stdout;
    assert!(
        page.contains(".TH finetune-train 1") && page.contains("resume"),
        "{page}"
    );
    assert!(page.contains("finetune train "), "{page}");
    let folder = home.path().join("man1");
    finetune(&home, &["man", "--output", &folder.display().to_string()]).works();
    for file in ["finetune.1", "finetune-train.1", "finetune-man.1"] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    finetune(&home, &["man", "trian"]).fails_with(1, &["`trian`", "finetune --help"]);
}

/// Seconds of the processor that a call takes, in all of its threads.
fn processor_seconds(called: &Command, args: &[&str]) -> f64 {
    let mut shell = Command::new("bash");
    shell.args([
        "-c",
        "TIMEFORMAT='%3U %3S'; time \"$@\" > /dev/null 2> /dev/null",
        "bash",
    ]);
    shell.arg(called.get_program()).args(args);
    for (name, value) in called.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let said = shell.output().expect("bash runs");
    let times = String::from_utf8_lossy(&said.stderr);
    times
        .split_whitespace()
        .map(|time| time.parse::<f64>().expect("seconds"))
        .sum()
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

/// Talks to the model; what it said.
fn chat(home: &Home, more: &[&str], said: &str) -> String {
    let model = tiny().display().to_string();
    let mut child = command(home)
        .args([
            "chat",
            "--model",
            &model,
            "--max-new-tokens",
            "6",
            "--dtype",
            "f32",
            "--temperature",
            "0",
        ])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(said.as_bytes()).unwrap();
    answer(child.wait_with_output().unwrap()).works().stdout
}

#[test]
fn a_chat_that_outgrows_the_model_forgets_its_oldest_turns() {
    let home = Home::new();
    let model = tiny().display().to_string();
    let talk = |said: &str| {
        let mut command = command(&home);
        command.args([
            "chat",
            "--model",
            &model,
            "--max-new-tokens",
            "4",
            "--dtype",
            "f32",
            "--temperature",
            "0",
        ]);
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(said.as_bytes()).unwrap();
        answer(child.wait_with_output().unwrap()).works()
    };
    // The model sees 128 positions: two of these turns fit, three do not.
    let turns = [
        "What is slow? And steady?",
        "What glitters? And is gold?",
        "Who comes first? Or last?",
    ];
    let found = talk(&turns.join("\n"));
    assert!(
        found.stderr.contains("128 positions: the oldest 2 turns are forgotten"),
        "{}",
        found.stderr
    );
    assert_eq!(found.stdout.lines().count(), 3, "{}", found.stdout);
    // The last answer is that of a conversation which began with the second turn.
    let shorter = talk(&turns[1..].join("\n"));
    assert_eq!(found.stdout.lines().last(), shorter.stdout.lines().last());
    // A turn that no room can be made for leaves the conversation as it was.
    let long = "glitters ".repeat(60);
    let found = talk(&format!("{}\n{long}\n{}", turns[0], turns[1]));
    assert!(found.stderr.contains("it is left out"), "{}", found.stderr);
    assert_eq!(found.stdout, talk(&turns[..2].join("\n")).stdout);
}

#[test]
fn a_chat_remembers_what_was_said() {
    let home = Home::new();
    let model = tiny().display().to_string();
    // The answer to a conversation, as `generate` gives it.
    let wanted = |turns: &[(&str, &str)]| {
        let messages: Vec<_> = turns
            .iter()
            .map(|(role, content)| json!({ "role": role, "content": content }))
            .collect();
        let row = home.file("row.jsonl", &json!({ "messages": messages }).to_string());
        let args = [
            "generate",
            "--model",
            &model,
            "--data",
            &row,
            "--max-new-tokens",
            "6",
            "--dtype",
            "f32",
        ];
        finetune(&home, &args).works().json_lines()[0]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = wanted(&[("user", "What is slow?")]);
    let second = wanted(&[
        ("user", "What is slow?"),
        ("assistant", &first),
        ("user", "What is quick?"),
    ]);
    let alone = wanted(&[("user", "What is quick?")]);
    assert_ne!(second, alone);
    let found = chat(
        &home,
        &[],
        "What is slow?\n\nWhat is quick?\n/reset\nWhat is quick?\n/quit\nnever read\n",
    );
    assert_eq!(found, format!("{first}\n{second}\n{alone}\n"));
    // Told something before the first turn; the end of the input leaves.
    let told = wanted(&[("system", "Be brief."), ("user", "What is slow?")]);
    let found = chat(
        &home,
        &["--system", "Be brief."],
        "What is slow?\n/reset\nWhat is slow?\n",
    );
    assert_eq!(found, format!("{told}\n{told}\n"));
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
fn fetch_lists_what_there_is_and_refuses_an_unknown_name_before_anything_is_downloaded() {
    let home = Home::new();
    let store = home.path().join("store");
    let fetch = |args: &[&str]| {
        let mut command = command(&home);
        command.arg("fetch").args(args).env("FINETUNE_CACHE", &store);
        // No Python, no npm: nothing can be downloaded, and outside the checkout nothing else is found.
        command.env("PATH", "").env_remove("PYTHON").current_dir(home.path());
        command.output().unwrap()
    };
    for args in [&["--list"][..], &[]] {
        let listed = fetch(args);
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.status.success());
        assert!(
            text.lines()
                .any(|line| line.starts_with("smollm2-135m-instruct") && line.contains("Apache-2.0"))
        );
    }
    for (name, wanted) in [
        ("qaurtz", "did you mean `quartz`?"),
        ("smollm2", "did you mean `smollm2-135m-instruct`?"),
        ("llama-405b", "hint: `finetune fetch --list`"),
    ] {
        let refused = fetch(&["sarcasm", name]);
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(
            !refused.status.success() && text.contains(wanted) && text.contains(&format!("`{name}`")),
            "{text}"
        );
        assert!(!store.exists());
    }
    let text = String::from_utf8(fetch(&["sarcasm"]).stderr).unwrap();
    assert!(text.contains("Python 3 was not found"), "{text}");
}
