//! What a model's files say of its tokens, read in one way by every verb: end tokens, tokens and templates that stand
//! beside `tokenizer.json`, what Python writes for JSON, positions, and how a model was given its prompts in training.

use std::fs;

use serde_json::{Value, json};

use crate::command::{Answer, Home, Refusal, finetune, tiny};

/// A copy of the tiny model, `name`, with `change` made to each of the files `config.json` and `tokenizer_config.json`.
fn model(home: &Home, name: &str, change: impl Fn(&mut Value, &mut Value)) -> String {
    let folder = home.copy(&tiny(), name);
    let read = |file: &str| -> Value {
        serde_json::from_slice(&fs::read(home.path().join(name).join(file)).expect("a file")).expect("JSON")
    };
    let (mut config, mut tokenizer) = (read("config.json"), read("tokenizer_config.json"));
    change(&mut config, &mut tokenizer);
    home.file(&format!("{name}/config.json"), &config.to_string());
    home.file(&format!("{name}/tokenizer_config.json"), &tokenizer.to_string());
    folder
}

/// A base model: it ends texts with `<|endoftext|>` (0), and has no chat template.
fn base(home: &Home) -> String {
    let folder = model(home, "base", |config, tokenizer| {
        config["eos_token_id"] = json!(0);
        tokenizer["eos_token"] = json!("<|endoftext|>");
    });
    fs::remove_file(home.path().join("base/chat_template.jinja")).expect("a template");
    folder
}

fn json_of(home: &Home, file: &str) -> Value {
    serde_json::from_slice(&fs::read(home.path().join(file)).expect("a file")).expect("JSON")
}

fn inspected(home: &Home, what: &str) -> Value {
    let answer = finetune(home, &["inspect", what, "--json"]).works();
    serde_json::from_str(&answer.stdout).expect("JSON")
}

/// Trains `model` on `rows` into `run`: `steps` steps of `surgery`.
fn train(home: &Home, (model, rows, run): (&str, &str, &str), surgery: &str, steps: usize) -> Answer {
    let text = format!(
        "[model]\nname_or_path = {model:?}\ndtype = \"f32\"\n\n[[surgery]]\n{surgery}\n\n[objective]\nkind = \"sft\"\n\n\
         [data]\ntrain = [{{ path = {rows:?} }}]\nmax_length = 96\n\n[report]\nsamples = 1\nmax_new_tokens = 4\n\n\
         [train]\noutput_dir = {:?}\nmax_steps = {steps}\nper_device_train_batch_size = 2\nlearning_rate = 1e-2\n\
         save_strategy = \"no\"\n",
        home.at(run)
    );
    finetune(home, &["train", &home.file("recipe.toml", &text)])
}

const LORA: &str = "kind = \"lora\"\nr = 4\nlora_alpha = 8";

#[test]
fn a_chat_that_a_base_model_learns_ends_there_and_so_does_what_is_made_of_it() {
    let home = Home::new();
    let base = base(&home);
    let row = json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]});
    let rows = home.file("rows.jsonl", &format!("{row}\n{row}\n"));
    let text = |surgery: &str, run: &str, steps: usize| {
        train(&home, (&base, &rows, run), surgery, steps);
        let recipe = fs::read_to_string(home.at("recipe.toml")).expect("a recipe");
        let recipe = recipe.replace("dtype = \"f32\"\n", "dtype = \"f32\"\nchat_template = \"chatml\"\n");
        finetune(&home, &["train", &home.file("chat.toml", &recipe)]).works()
    };
    // Without a template there is no chat to learn.
    train(&home, (&base, &rows, "none"), LORA, 2).fails_with(1, &["chat_template = \"chatml\""]);

    let trained = text("kind = \"full\"", "whole", 40);
    assert!(
        trained.stderr.contains("end tokens are named differently"),
        "{}",
        trained.stderr
    );
    let whole = home.at("whole");
    let ask = [
        "generate",
        "--model",
        &whole,
        "--prompt",
        "hi",
        "--json",
        "--dtype",
        "f32",
        "--max-new-tokens",
        "20",
    ];
    let answer = &finetune(&home, &ask).works().json_lines()[0];
    assert_eq!((&answer["text"], &answer["stopped"]), (&json!("yes"), &json!("eos")));
    for file in ["whole/config.json", "whole/generation_config.json"] {
        assert_eq!(json_of(&home, file)["eos_token_id"], json!([0, 2]), "{file}");
    }

    text(LORA, "adapter", 2);
    let (adapter, merged, exported) = (home.at("adapter"), home.at("merged"), home.at("exported"));
    finetune(
        &home,
        &["merge", "--model", &base, "--adapter", &adapter, "--output", &merged],
    )
    .works();
    let export = [
        "export",
        "--format",
        "hf",
        "--model",
        &base,
        "--adapter",
        &adapter,
        "--output",
        &exported,
    ];
    finetune(&home, &export).works();
    for folder in ["merged", "exported"] {
        for file in ["config.json", "generation_config.json"] {
            assert_eq!(
                json_of(&home, &format!("{folder}/{file}"))["eos_token_id"],
                json!([0, 2]),
                "{folder}"
            );
        }
    }
    assert_eq!(
        inspected(&home, &merged)["end_tokens"],
        json!(["<|endoftext|>", "<|im_end|>"])
    );
    assert!(inspected(&home, &merged).get("notes").is_none());
    // Nothing is written where nothing is new.
    let same = home.at("same");
    let plain = tiny().display().to_string();
    finetune(
        &home,
        &["export", "--format", "hf", "--model", &plain, "--output", &same],
    )
    .works();
    assert_eq!(json_of(&home, "same/config.json")["eos_token_id"], json!(2));
    assert!(!home.path().join("same/generation_config.json").exists());
}

#[test]
fn end_tokens_that_three_files_name_are_all_of_them() {
    let home = Home::new();
    let three = model(&home, "three", |config, _| config["eos_token_id"] = json!(0));
    home.file("three/generation_config.json", r#"{"eos_token_id": [1]}"#);
    let found = inspected(&home, &three);
    assert_eq!(
        found["end_tokens"],
        json!(["<|im_end|>", "<|endoftext|>", "<|im_start|>"])
    );
    assert_eq!(found["text_ends_with"], "<|im_end|>");
    assert_eq!(
        found["end_tokens_named_by"]["generation_config.json"],
        json!(["<|im_start|>"])
    );
    assert!(
        found["notes"][0].as_str().unwrap().contains("generation stops at any"),
        "{found}"
    );
    let ask = ["generate", "--model", &three, "--prompt", "hi", "--max-new-tokens", "2"];
    let told = finetune(&home, &ask).works().stderr;
    assert_eq!(told.matches("end tokens are named differently").count(), 1, "{told}");

    let lacks = model(&home, "lacks", |_, tokenizer| tokenizer["eos_token"] = json!("</s>"));
    let found = inspected(&home, &lacks);
    assert!(
        found["notes"][0]
            .as_str()
            .unwrap()
            .contains("`</s>` is not in the vocabulary"),
        "{found}"
    );
    assert_eq!(found["text_ends_with"], "<|im_end|>");
}

#[test]
fn what_python_writes_for_json_is_read_where_nothing_depends_on_it() {
    let home = Home::new();
    let config = fs::read_to_string(tiny().join("config.json")).expect("a file");
    let works = |name: &str, config: &str| {
        let folder = home.copy(&tiny(), name);
        home.file(&format!("{name}/config.json"), config);
        let ask = [
            "generate",
            "--model",
            &folder,
            "--prompt",
            "hi",
            "--max-new-tokens",
            "2",
        ];
        finetune(&home, &ask)
    };
    let with = |key: &str, value: &str| config.replacen('{', &format!("{{\n  \"{key}\": {value},"), 1);
    works("infinity", &with("time_step_limit", "[0.0, Infinity]")).works();
    works("nan", &with("router_jitter_noise", "NaN")).works();
    works("large", &with("length", "1000000000000000019884624838656")).works();
    works("mark", &format!("\u{feff}{config}")).works();
    // What Transformers writes where a tokenizer knows no end, and marks that editors leave in other files.
    for (name, file, text) in [
        ("endless", "tokenizer_config.json", None),
        (
            "marked",
            "generation_config.json",
            Some("\u{feff}{\"eos_token_id\": 2}"),
        ),
    ] {
        let folder = home.copy(&tiny(), name);
        let path = format!("{name}/{file}");
        let text = text.map_or_else(
            || {
                let mut said = json_of(&home, &path);
                said["model_max_length"] = json!(0);
                said.to_string().replace(
                    "\"model_max_length\":0",
                    "\"model_max_length\":1000000000000000019884624838656",
                )
            },
            str::to_owned,
        );
        home.file(&path, &text);
        finetune(
            &home,
            &[
                "generate",
                "--model",
                &folder,
                "--prompt",
                "hi",
                "--max-new-tokens",
                "2",
            ],
        )
        .works();
    }
    works(
        "floats",
        &config.replace("\"vocab_size\": 311", "\"vocab_size\": 311.0"),
    )
    .works();
    // What is kept is written back as it was.
    let out = home.at("out");
    finetune(
        &home,
        &[
            "export",
            "--format",
            "hf",
            "--model",
            &home.at("infinity"),
            "--output",
            &out,
        ],
    )
    .works();
    let written = fs::read_to_string(home.path().join("out/config.json")).expect("a file");
    assert!(
        written.contains("Infinity") && !written.contains("\"Infinity"),
        "{written}"
    );

    for (key, value, found) in [("rms_norm_eps", "NaN", "NaN"), ("hidden_size", "32.5", "32.5")] {
        let line = config.lines().position(|line| line.contains(key)).expect("a key") + 1;
        let old = config.lines().nth(line - 1).expect("a line");
        let bad = config.replace(old, &format!("  \"{key}\": {value},"));
        let place = format!("config.json` line {line}: `{key}`");
        works(key, &bad).fails_with(1, &[&place, &format!("found {found}")]);
    }
}

#[test]
fn tokens_and_templates_beside_the_tokenizer_are_read_or_told() {
    let home = Home::new();
    let rows = home.file(
        "rows.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"<tool>\"}, {\"role\": \"assistant\", \"content\": \"yes\"}]}\n",
    );
    let tokens = |model: &str| {
        let answer = finetune(&home, &["inspect", &rows, "--model", model, "--json"]).works();
        let found: Value = serde_json::from_str(&answer.stdout).expect("JSON");
        (found["tokens"].as_u64().expect("a number"), answer.stderr)
    };
    let (split, _) = tokens(&tiny().display().to_string());
    let token = json!({"content": "<tool>", "special": true});
    // The embedding has no row for a further token.
    let full = model(&home, "full", |_, tokenizer| {
        tokenizer["added_tokens_decoder"] = json!({"311": token});
    });
    let (whole, told) = tokens(&full);
    assert_eq!(whole, split);
    assert!(told.contains("`<tool>`") && told.contains("token 311"), "{told}");

    let two = home.copy(&tiny(), "two");
    let config = r#"{"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}"#;
    home.file("two/tokenizer_config.json", config);
    assert!(tokens(&two).1.contains("two different chat templates"));
}

#[test]
fn rows_that_are_longer_than_the_model_sees_are_counted_and_never_run() {
    let home = Home::new();
    let short = model(&home, "short", |config, _| {
        config["max_position_embeddings"] = json!(24);
    });
    let long = "The early bird catches the worm. ".repeat(5);
    let rows = home.file(
        "long.jsonl",
        &format!("{{\"text\": {long:?}}}\n{{\"text\": \"a\"}}\n{{\"text\": {long:?}}}\n"),
    );
    let told = train(&home, (&short, &rows, "run"), LORA, 1).works().stderr;
    assert!(told.contains("more than the model's 24 positions"), "{told}");
    assert!(told.contains("2 cut at `max_length` = 24"), "{told}");
    for verb in [&["score"][..], &["generate", "--no-chat"]] {
        finetune(&home, &[verb, &["--model", &short, "--data", &rows]].concat()).refuses(&Refusal {
            place: "long.jsonl` line 1",
            wanted: "wanted at most 2",
            found: "2 of 3 rows are longer",
            hint: "split each",
        });
    }
    let ask = [
        "generate",
        "--model",
        &short,
        "--prompt",
        "a",
        "--no-chat",
        "--max-new-tokens",
        "99",
    ];
    let answer = finetune(&home, &[&ask[..], &["--json"]].concat()).works();
    assert_eq!(answer.json_lines()[0]["stopped"], "context");
    assert!(finetune(&home, &ask).works().stderr.contains("24 positions"));
    let suite = home.file(
        "suite.toml",
        &format!("[[task]]\nname = \"t\"\nkind = \"perplexity\"\ndata = {rows:?}\n"),
    );
    finetune(&home, &["evaluate", "--model", &short, "--suite", &suite]).works();
    let stretched = model(&home, "stretched", |config, _| {
        config["max_position_embeddings"] = json!(24);
        config["rope_parameters"] = json!({
            "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 24
        });
    });
    finetune(&home, &["score", "--model", &stretched, "--data", &rows]).works();
}

#[test]
fn a_model_is_asked_as_it_was_trained() {
    let home = Home::new();
    let plain = tiny().display().to_string();
    let pairs = home.file(
        "raw.jsonl",
        "{\"prompt\": \"The boat is called\", \"completion\": \" Anna\"}\n{\"prompt\": \"The cat is\", \"completion\": \" old\"}\n",
    );
    let raw = train(&home, (&plain, &pairs, "raw"), LORA, 2).works();
    assert!(
        raw.stderr.contains("try it: finetune generate") && !raw.stderr.contains("finetune chat"),
        "{}",
        raw.stderr
    );
    let chats = home.chats();
    let chat = train(&home, (&plain, &chats, "chat"), LORA, 2).works();
    assert!(chat.stderr.contains("try it: finetune chat"), "{}", chat.stderr);
    for (run, wanted) in [("raw", "raw_text"), ("chat", "chat_template")] {
        assert_eq!(
            json_of(&home, &format!("{run}/prompt_format.json"))["prompt_format"],
            wanted
        );
        assert_eq!(inspected(&home, &home.at(run))["prompt_format"], wanted);
    }

    let ask = |adapter: &str, more: &[&str]| {
        let adapter = home.at(adapter);
        let all = ["--model", &plain, "--adapter", &adapter, "--dtype", "f32"];
        finetune(&home, &[&more[..1], &all[..], &more[1..]].concat()).works()
    };
    let prompt = ["generate", "--prompt", "The boat is called", "--max-new-tokens", "8"];
    let with = |flag| [&prompt[..], &[flag]].concat();
    let by_default = ask("raw", &prompt).stdout;
    assert_eq!(by_default, ask("raw", &with("--no-chat")).stdout);
    let other = ask("raw", &with("--chat"));
    assert_ne!(by_default, other.stdout);
    assert!(other.stderr.contains("was trained on plain text"), "{}", other.stderr);
    assert_eq!(ask("chat", &prompt).stdout, ask("chat", &with("--chat")).stdout);
    let other = ask("chat", &with("--no-chat")).stderr;
    assert!(other.contains("was trained on conversations"), "{other}");

    // A row of the same prompt is the same question for every verb.
    let rows = ["generate", "--data", &pairs, "--max-new-tokens", "8"];
    let said = ask("raw", &rows).json_lines()[0]["text"].clone();
    assert_eq!(said, by_default.trim_end_matches('\n'));
    let tokens = |adapter: &str, more: &[&str]| {
        let lines = ask(adapter, &[&["score", "--data", &pairs, "--json"], more].concat()).json_lines();
        lines[0]["tokens"].as_u64().expect("a number")
    };
    assert_eq!(tokens("raw", &[]), tokens("raw", &["--no-chat"]));
    assert_eq!(tokens("chat", &[]), tokens("raw", &["--chat"]));
    assert!(tokens("raw", &[]) < tokens("chat", &[]));

    // So does a suite: an exact answer is what the model says to the prompt as it was trained.
    let answer = home.file(
        "answer.jsonl",
        &format!(
            "{}\n",
            json!({ "prompt": "The boat is called", "completion": by_default.trim() })
        ),
    );
    let suite = home.file(
        "asked.toml",
        &format!("[[task]]\nname = \"boat\"\nkind = \"exact_match\"\nmax_new_tokens = 8\ndata = {answer:?}\n"),
    );
    let right = |more: &[&str]| {
        let report = ask("raw", &[&["evaluate", "--suite", &suite, "--json"], more].concat()).json_lines();
        report[0]["tasks"]["boat"]["exact_match"].as_f64().unwrap()
    };
    assert_eq!((right(&[]), right(&["--chat"])), (1.0, 0.0));

    // What is made of it is asked so too.
    let merged = home.at("merged");
    finetune(
        &home,
        &[
            "merge",
            "--model",
            &plain,
            "--adapter",
            &home.at("raw"),
            "--output",
            &merged,
        ],
    )
    .works();
    assert_eq!(inspected(&home, &merged)["prompt_format"], "raw_text");
    let told = finetune(&home, &["chat", "--model", &merged]).works().stderr;
    assert!(told.contains("was trained on plain text"), "{told}");
}
