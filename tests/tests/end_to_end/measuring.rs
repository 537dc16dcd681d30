//! The verbs that measure: `score`, `evaluate`, `estimate`, `doctor`.

use std::fs;

use serde_json::{Value, json};

use super::command::{Home, Refusal, finetune, tiny};

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
    assert_eq!(sum("predicted"), sum("tokens") - 24.0);
    let perplexity = (-sum("log_prob") / sum("predicted")).exp();
    assert!((summary["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-9);
    let bits = -sum("log_prob") / std::f64::consts::LN_2 / sum("predicted_bytes");
    let given = lines
        .iter()
        .filter(|line| line["predicted_bytes"] == line["bytes"])
        .count();
    assert_eq!(
        given, 0,
        "the tiny model has no BOS token: the first bytes are not predicted"
    );
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
fn an_evaluation_measures_what_generate_and_score_say() {
    let home = Home::new();
    let (model, texts) = (tiny().display().to_string(), home.texts());
    let line = |args: &[&str]| {
        let all = [args, &["--model", &model, "--json", "--dtype", "f32"]].concat();
        finetune(&home, &all).works().json_lines().pop().unwrap()
    };
    let perplexity = line(&["score", "--data", &texts])["perplexity"].as_f64().unwrap();
    let answer = line(&["generate", "--prompt", "What is slow?", "--max-new-tokens", "4"])["text"].clone();
    let rows = [
        json!({ "question": "What is slow?", "answer": answer }),
        json!({ "question": "What is slow?", "answer": "never" }),
    ];
    let rows = home.file("rows.jsonl", &format!("{}\n{}\n", rows[0], rows[1]));
    let suite = home.file(
        "suite.toml",
        &format!(
            "[[task]]\nname = \"texts\"\nkind = \"perplexity\"\ndata = {texts:?}\nmax_length = 128\n\n\
             [[task]]\nname = \"answers\"\nkind = \"exact_match\"\ndata = {rows:?}\nmax_length = 128\nmax_new_tokens = 4\n"
        ),
    );
    let tasks = line(&["evaluate", "--suite", &suite])["tasks"].clone();
    assert!(
        (tasks["texts"]["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-6,
        "{tasks} {perplexity}"
    );
    assert_eq!(tasks["answers"]["exact_match"].as_f64(), Some(0.5), "{tasks}");
    let spoken = finetune(
        &home,
        &["evaluate", "--suite", &suite, "--model", &model, "--dtype", "f32"],
    )
    .works()
    .stdout;
    assert!(spoken.contains("texts") && spoken.contains("exact 50.0 %"), "{spoken}");
}

#[test]
fn an_evaluation_is_held_against_an_earlier_one() {
    let home = Home::new();
    let texts = home.texts();
    let suite = home.file(
        "suite.toml",
        &format!(
            "[[task]]\nname = \"texts\"\nkind = \"perplexity\"\ndata = {texts:?}\nmax_length = 128\ntolerance = 0.05\n"
        ),
    );
    let model = tiny().display().to_string();
    let args = ["evaluate", "--model", &model, "--suite", &suite, "--dtype", "f32"];
    let report = finetune(&home, &[&args[..], &["--json"]].concat())
        .works()
        .json_lines()
        .remove(0);
    let perplexity = report["tasks"]["texts"]["perplexity"].as_f64().unwrap();
    // Against a report in which the perplexity was `factor` times this one.
    let compare = |factor: f64, more: &[&str]| {
        let mut before = report.clone();
        before["tasks"]["texts"]["perplexity"] = (perplexity * factor).into();
        let before = home.file("before.json", &before.to_string());
        finetune(&home, &[&args[..], &["--compare", &before], more].concat())
    };
    for factor in [1.0, 2.0, 0.96] {
        compare(factor, &[]).works();
    }
    let worse = compare(0.94, &["--json"]);
    worse.fails_with(1, &["worse than", "before.json", "by more than the tolerance: texts"]);
    let change = worse.json_lines()[0]["changes"][0].clone();
    assert_eq!(change["regressed"], true);
    assert!(
        (change["after"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-9,
        "{change}"
    );
    // A report that says nothing of the task, or of another measure, does not pass for an equal one.
    for (tasks, found) in [
        (json!({}), "found only "),
        (
            json!({ "texts": { "kind": "exact_match", "rows": 1, "seconds": 1.0, "exact_match": 1.0 } }),
            "found that task without `perplexity`",
        ),
    ] {
        let before = home.file("other.json", &json!({ "model": "m", "tasks": tasks }).to_string());
        finetune(&home, &[&args[..], &["--compare", &before]].concat()).refuses(&Refusal {
            place: "other.json`",
            wanted: "wanted task `texts` of the suite with its `perplexity`",
            found,
            hint: "make the report anew",
        });
    }
    let before = home.file("no-report.json", "[1, 2]");
    finetune(&home, &[&args[..], &["--compare", &before]].concat()).fails_with(
        1,
        &[
            "no-report.json`",
            "wanted a report that `finetune evaluate --json` wrote",
            "invalid type",
        ],
    );
    let broken = home.file(
        "suite2.toml",
        "[[task]]\nname = \"a\"\nkind = \"perplexty\"\ndata = \"x\"\n",
    );
    finetune(&home, &["evaluate", "--model", &model, "--suite", &broken])
        .fails_with(1, &["suite2.toml", "perplexty", "line 3"]);
}

#[test]
fn an_estimate_says_afterwards_how_wrong_it_was() {
    let home = Home::new();
    let recipe = home.recipe("");
    let estimate = || {
        finetune(&home, &["estimate", &recipe, "--json"])
            .works()
            .json_lines()
            .remove(0)
    };
    let before = estimate();
    assert!(before["run"].is_null(), "{before}");
    assert_eq!(before["time"]["steps"].as_f64(), Some(6.0));
    // An estimate touches no folder.
    assert!(!home.path().join("run").exists());
    let run = finetune(&home, &["train", &recipe, "--json"])
        .works()
        .json_lines()
        .remove(0);
    // 24 rows in steps of four are an epoch: what was counted is what ran.
    assert_eq!(before["time"]["tokens"].as_f64(), run["tokens"].as_f64());
    let after = estimate();
    assert_eq!(after["memory"], before["memory"]);
    let (found, guess) = (
        after["run"]["peak"].as_f64().unwrap(),
        after["memory"]["peak"].as_f64().unwrap(),
    );
    // 300 MB are allowed for libtorch, the tokenizer and buffers, of which a tiny model takes half: never less than the run
    // took, and not more than the rest of that above it.
    assert!(guess >= found && guess - found < 2e8, "{guess} of {found}");
    let spoken = finetune(&home, &["estimate", &recipe]).works().stdout;
    assert_eq!(spoken.matches("the estimate is off by").count(), 2, "{spoken}");
    let run = home.at("run");
    assert!(
        spoken.contains(&format!("the run in `{run}`")) && spoken.contains("peak, all together"),
        "{spoken}"
    );
}

#[test]
fn the_doctor_knows_this_machine() {
    let home = Home::new();
    let model = tiny().display().to_string();
    finetune(&home, &["import", &model, "--name", "mine"]).works();
    let found = finetune(&home, &["doctor", "--json"]).works().json_lines().remove(0);
    assert!(
        found["physical_cores"].as_u64().is_some_and(|cores| cores > 0),
        "{found}"
    );
    assert!(
        found["libtorch"].as_str().is_some_and(|path| path.contains("libtorch")),
        "{found}"
    );
    for rate in ["matmul_f32", "matmul_bf16"] {
        let number = found[rate]
            .as_str()
            .and_then(|text| text.strip_suffix(" GFLOP/s")?.parse::<f64>().ok());
        assert!(number.is_some_and(|rate| rate > 0.0), "{rate}: {found}");
    }
    // The environment of these tests says how many, and where the store is.
    assert_eq!(found["threads"], 1);
    assert_eq!(found["store"], home.at("cache"));
    assert_eq!(found["models_in_store"], json!(["mine"]));
    let spoken = finetune(&home, &["doctor"]).works().stdout;
    assert_eq!(spoken.lines().count(), found.as_object().unwrap().len(), "{spoken}");
}

#[test]
fn a_run_computes_in_what_this_machine_is_measured_to_multiply_faster() {
    let home = Home::new();
    for (faster, wanted) in [(1000.0, "bf16"), (0.001, "f32")] {
        home.rates(faster);
        let out = home.at(wanted);
        let recipe = home.recipe("");
        let set = format!("train.output_dir={out}");
        let settings = ["--set", &set, "--set", "train.max_steps=1", "--set", "model.dtype=auto"];
        finetune(&home, &[&["train", &recipe][..], &settings].concat()).works();
        let run: Value = serde_json::from_slice(&fs::read(format!("{out}/run.json")).unwrap()).unwrap();
        assert_eq!(run["machine"]["compute"], wanted, "{run}");
    }
}
