//! What a run leaves for others to read.

use serde_json::Value;
use train::{ReportText, ReportTo, RunDir, Sample, Start, TrainConfig};

use crate::tiny::{Formula, Tiny, parse, run_new};

#[test]
fn a_run_leaves_what_it_promises() {
    let folder = tempfile::tempdir().unwrap();
    let config = parse("max_steps = 6\neval_strategy = \"steps\"\neval_steps = 3\nload_best_model_at_end = true");
    let model = Tiny::new();
    let report = run_new(&model, &Formula::new(), &config, folder.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();

    let lines: Vec<Value> = read("metrics.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 8);
    for key in [
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "peak_memory_bytes",
        "seconds",
        "accuracy",
    ] {
        assert!(lines[0][key].is_number(), "{key}: {}", lines[0]);
    }
    // Counted by rows, of two documents each, whatever a row weighs; and nothing is said of what never came.
    assert_eq!(lines[1]["documents_a_row"], 2.0);
    assert!(lines[1].get("never").is_none());
    assert_eq!(lines[0]["step"], 1);
    assert_eq!(lines[0]["learning_rate"], 0.05);
    assert!(lines[3]["eval/loss"].is_number() && lines[3]["step"] == 3);
    assert_eq!(report.num_tokens, lines[6]["tokens"].as_u64().unwrap() as usize);

    let state: Value = serde_json::from_str(&read("trainer_state.json")).unwrap();
    assert!(read("trainer_state.json").starts_with("{\n  \"best_global_step\": "));
    assert_eq!(
        (&state["global_step"], &state["max_steps"], &state["train_batch_size"]),
        (&6.into(), &6.into(), &8.into())
    );
    let history = state["log_history"].as_array().unwrap();
    assert_eq!(history[3]["eval_loss"], lines[3]["eval/loss"]);
    assert!(history[8]["train_loss"].is_number());
    let best = state["best_model_checkpoint"].as_str().unwrap();
    assert!(std::path::Path::new(best).join("trainer_state.json").exists());
    assert_eq!(read("recipe.toml"), "kind = \"test\"\n");
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names
            .iter()
            .any(|name| name.to_string_lossy().starts_with("events.out.tfevents.")),
        "{names:?}"
    );
    assert!(
        names.iter().all(|name| !name.to_string_lossy().contains(".partial")),
        "{names:?}"
    );
}

#[test]
fn a_report_tells_the_story_with_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let config = parse("max_steps = 4\neval_strategy = \"steps\"\neval_steps = 2");
    let report = run_new(&Tiny::new(), &Formula::new(), &config, folder.path()).unwrap();
    let dir = RunDir::open(folder.path(), "", Start::Resume).unwrap();
    let story = ReportText {
        title: "A tiny run".into(),
        settings: vec![("model".into(), "tiny".into())],
        results: vec![("accuracy".into(), "50 %".into(), "90 %".into())],
        samples: vec![Sample {
            prompt: "Two\nlines".into(),
            before: "no".into(),
            after: String::new(),
            wanted: Some("yes".into()),
        }],
    };
    let path = report.write(&dir, &story).unwrap().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    for needle in [
        "# A tiny run\n",
        "| accuracy | 50 % | 90 % |",
        "> Two\n> lines\n",
        "> (nothing)\n",
        "| model | tiny |",
        "![loss](report/loss.svg)",
        "![grad_norm](report/grad_norm.svg)",
        "| outcome | completed |",
        " cores, ",
    ] {
        assert!(text.contains(needle), "{needle}: {text}");
    }
    let svg = std::fs::read_to_string(folder.path().join("report/loss.svg")).unwrap();
    assert!(svg.contains("eval") && svg.contains("train"));
}

#[test]
fn outputs_that_nobody_asked_for_are_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let config = parse("max_steps = 1\nreport_to = []\nsave_strategy = \"no\"");
    let report = run_new(&Tiny::new(), &Formula::new(), &config, folder.path()).unwrap();
    let dir = RunDir::open(folder.path(), "", Start::Resume).unwrap();
    assert!(report.write(&dir, &ReportText::default()).unwrap().is_none());
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            ".published",
            ".run.lock",
            "metrics.jsonl",
            "model.txt",
            "recipe.toml",
            "trainer_state.json"
        ]
    );
}

#[test]
fn evaluating_without_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::open(folder.path(), "", Start::New).unwrap();
    let config = TrainConfig {
        report_to: vec![ReportTo::Markdown],
        ..parse("eval_strategy = \"epoch\"")
    };
    let save = |_: &std::path::Path| Ok(());
    let hooks = train::Hooks::new(&dir, &save);
    let error = train::fit(&Tiny::new(), &crate::tiny::NextToken, &Formula::new(), &config, hooks).unwrap_err();
    assert!(
        error.to_string().contains("`train.eval_strategy` has no effect"),
        "{error}"
    );
}
