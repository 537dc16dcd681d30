//! Mixtures of agents through the built command: adapters on one base, an endpoint that is not there, transcripts.

use std::fs;

use serde_json::Value;

use super::command::{Home, finetune, tiny};

/// An adapter trained for a few steps.
fn adapter(home: &Home, name: &str, seed: u64) -> String {
    let recipe = home.recipe("");
    let run = home.at(name);
    let (output, seed) = (format!("train.output_dir={run}"), format!("train.seed={seed}"));
    finetune(home, &["train", &recipe, "--set", &output, "--set", &seed]).works();
    run
}

fn config(home: &Home, head: &str, agents: &[(&str, String)]) -> String {
    let mut text = head.to_owned();
    for (name, body) in agents {
        text.extend(["\n[agents.", name, "]\n", body, "\n"]);
    }
    home.file("agents.toml", &text)
}

fn local(more: &str) -> String {
    format!("model = {:?}\n{more}", tiny().display().to_string())
}

const HEAD: &str = "aggregator = \"last\"\nlayers = [[\"one\", \"two\", \"three\"]]\ntemperature = 0.0\nmax_tokens = 5\nsynthesis_prompt = \"Choose.\"\n";

#[test]
fn three_adapters_answer_over_one_base_as_each_does_alone() {
    let home = Home::new();
    let adapters = [adapter(&home, "a", 1), adapter(&home, "b", 2), adapter(&home, "c", 3)];
    let agents = [
        ("one", local(&format!("adapter = {:?}", adapters[0]))),
        ("two", local(&format!("adapter = {:?}", adapters[1]))),
        ("three", local(&format!("adapter = {:?}", adapters[2]))),
        ("last", local("")),
    ];
    let file = config(&home, HEAD, &agents);
    let transcript = home.at("said.jsonl");
    let asked = ["--prompt", "What is quick?", "--dtype", "f32"];
    let args = [
        &["moa", "--config", &file, "--json", "--transcript", &transcript][..],
        &asked,
    ]
    .concat();
    let answer = finetune(&home, &args).works();
    assert!(
        answer.stderr.contains("is in memory once, for 4 agents"),
        "{}",
        answer.stderr
    );
    let told = answer.json_lines().remove(0);
    assert_eq!(
        (told["calls"].as_u64(), told["failures"].as_array().map(Vec::len)),
        (Some(4), Some(0))
    );
    let said = fs::read_to_string(&transcript).unwrap();
    let calls: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(calls.len(), 4);
    let model = tiny().display().to_string();
    for (call, adapter) in calls.iter().zip(&adapters) {
        let alone = [
            &[
                "generate",
                "--model",
                &model,
                "--adapter",
                adapter,
                "--max-new-tokens",
                "5",
                "--json",
            ][..],
            &asked,
        ];
        let alone = finetune(&home, &alone.concat()).works().json_lines().remove(0);
        assert_eq!(call["text"].as_str(), alone["text"].as_str().map(str::trim), "{call}");
        assert_eq!(call["layer"], 0);
    }
    let read = calls[3]["messages"][0]["content"].as_str().unwrap();
    assert!(
        read.contains(&format!("1. {}", calls[0]["text"].as_str().unwrap())),
        "{read}"
    );
    assert_eq!(told["text"], calls[3]["text"]);
    // The same again as a stream; a transcript is not written over.
    let plain = [&["moa", "--config", &file][..], &asked].concat();
    let streamed = finetune(&home, &plain).works().stdout;
    assert_eq!(streamed.trim(), told["text"].as_str().unwrap());
    finetune(&home, &args).fails_with(1, &["said.jsonl", "exists"]);
}

#[test]
fn an_endpoint_that_is_not_there_is_left_out_and_rows_are_answered_one_by_one() {
    let home = Home::new();
    let agents = [
        ("one", local("")),
        ("two", local("temperature = 0.8")),
        (
            "three",
            "model = \"x\"\nendpoint = \"http://127.0.0.1:9/v1\"\nmax_retries = 1\nbackoff_seconds = 0.01".to_owned(),
        ),
        ("last", local("")),
    ];
    let file = config(&home, HEAD, &agents);
    let rows = home.file(
        "rows.jsonl",
        "{\"prompt\": \"Who is first?\"}\n{\"prompt\": \"What glitters?\"}\n",
    );
    let answer = finetune(&home, &["moa", "--config", &file, "--data", &rows, "--dtype", "f32"]).works();
    let told = answer.json_lines();
    assert_eq!(told.len(), 2);
    for row in &told {
        assert_eq!(row["failures"][0]["agent"], "three", "{row}");
        assert!(
            row["failures"][0]["failure"].as_str().unwrap().contains("not reached"),
            "{row}"
        );
        assert!(row["distinct_2"].is_f64() && row["copied_2"]["one"].is_f64(), "{row}");
    }
    assert!(
        answer.stderr.contains("`three` is left out: not reached"),
        "{}",
        answer.stderr
    );
}

#[test]
fn each_agents_worth_is_measured_in_each_role() {
    let home = Home::new();
    let agents = [
        ("one", local(&format!("adapter = {:?}", adapter(&home, "a", 1)))),
        ("last", local("")),
    ];
    let file = config(&home, &HEAD.replace(", \"two\", \"three\"", ""), &agents);
    let rows = home.file(
        "asked.jsonl",
        "{\"prompt\": \"Who?\", \"completion\": \"a crow\"}\n{\"prompt\": \"What?\", \"completion\": \"a bird\"}\n",
    );
    let args = ["moa", "--config", &file, "--data", &rows, "--roles", "--dtype", "f32"];
    let told = finetune(&home, &[&args[..], &["--json"]].concat())
        .works()
        .json_lines()
        .remove(0);
    for name in ["one", "last"] {
        for role in ["alone", "proposer", "aggregator"] {
            let worth = told["agents"][name][role].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&worth), "{told}");
        }
    }
    assert!(told["distinct_2"].as_f64().unwrap() > 0.0, "{told}");
    let table = finetune(&home, &args).works().stdout;
    assert!(table.lines().count() == 4 && table.contains("aggregator"), "{table}");
    let rows = home.file("asked.jsonl", "{\"prompt\": \"Who?\"}\n");
    let args = ["moa", "--config", &file, "--data", &rows, "--roles", "--dtype", "f32"];
    finetune(&home, &args).fails_with(1, &["asked.jsonl", "rows with an answer", "hint: give rows"]);
}

#[test]
fn configurations_that_cannot_be_are_refused_before_a_model_is_loaded() {
    let home = Home::new();
    for (head, agents, parts) in [
        (
            "aggregator = \"x\"\n",
            vec![("one", local(""))],
            vec!["`aggregator`", "`one`", "`x`"],
        ),
        (
            "aggregator = \"one\"\nlayer = []\n",
            vec![("one", local(""))],
            vec!["unknown field `layer`"],
        ),
        (
            "aggregator = \"one\"\n",
            vec![("one", "model = \"no-such-model\"".to_owned())],
            vec!["no-such-model"],
        ),
    ] {
        let file = config(&home, head, &agents);
        finetune(&home, &["moa", "--config", &file, "--prompt", "?"]).fails_with(1, &parts);
    }
}
