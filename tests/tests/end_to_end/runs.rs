//! What a run leaves in its output folder, and what the verbs make of it.

use std::fs;
use std::path::Path;

use super::command::{Home, finetune, losses, tiny};

#[test]
fn a_run_leaves_all_that_it_promises() {
    let home = Home::new();
    let eval = home.texts();
    let recipe = home.recipe("eval_strategy = \"steps\"\neval_steps = 3\neval_on_start = true\n");
    let args = [
        "train",
        &recipe,
        "--json",
        "--set",
        &format!("data.eval=[{{path={eval:?}}},{{path={eval:?},name=\"again\"}}]"),
    ];
    let summary = finetune(&home, &args).works().json_lines().remove(0);
    assert_eq!(
        (summary["steps"].as_u64(), summary["outcome"].as_str()),
        (Some(6), Some("completed"))
    );
    let run = home.path().join("run");
    for name in [
        "recipe.toml",
        "metrics.jsonl",
        "trainer_state.json",
        "report.md",
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "checkpoint-2/state.json",
        "checkpoint-6/optimizer.safetensors",
        "checkpoint-6/adapter_model.safetensors",
    ] {
        assert!(run.join(name).is_file(), "{name}");
    }
    assert!(
        fs::read_dir(&run)
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("events.out.tfevents"))
    );
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    for name in [
        "epoch",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "peak_memory_bytes",
        "seconds",
        "eval/texts_loss",
        "eval/again_perplexity",
        "eval/loss",
    ] {
        assert!(metrics.contains(&format!("\"{name}\"")), "{name} in {metrics}");
    }
    let report = fs::read_to_string(run.join("report.md")).unwrap();
    assert!(
        report.contains("eval/texts_loss") && report.contains("before"),
        "{report}"
    );
    let found = losses(&run);
    assert!(found.len() == 6 && found[5] < found[0], "{found:?}");
}

#[test]
fn the_resolved_recipe_reproduces_the_run() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(
        &home,
        &["train", &recipe, "--set", "surgery.0.r=2", "--set", "train.seed=11"],
    )
    .works();
    let (resolved, again) = (home.at("run/recipe.toml"), home.at("again"));
    finetune(
        &home,
        &["train", &resolved, "--set", &format!("train.output_dir={again}")],
    )
    .works();
    let bytes = |run: &str| fs::read(Path::new(run).join("adapter_model.safetensors")).unwrap();
    assert!(bytes(&home.at("run")) == bytes(&again), "the two adapters differ");
    assert_eq!(losses(Path::new(&again)), losses(&home.path().join("run")));
}

#[test]
fn full_fine_tuning_leaves_a_model_that_loads() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(
        &home,
        &[
            "train",
            &recipe,
            "--set",
            "surgery.0={kind=\"full\",unfrozen_parameters=[\"mlp\"]}",
        ],
    )
    .works();
    let run = home.at("run");
    let facts = finetune(&home, &["inspect", &run, "--json"])
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(facts["architecture"], "LlamaForCausalLM");
    finetune(
        &home,
        &[
            "generate",
            "--model",
            &run,
            "--prompt",
            "What is slow?",
            "--max-new-tokens",
            "3",
        ],
    )
    .works();
    let tensor = |folder: &Path, name: &str| {
        let file = checkpoint::Safetensors::open(&folder.join("model.safetensors")).unwrap();
        file.tensor(name).unwrap()
    };
    let moved = |name: &str| tensor(Path::new(&run), name) != tensor(&tiny(), name);
    assert!(moved("model.layers.1.mlp.up_proj.weight"));
    assert!(!moved("model.layers.1.self_attn.q_proj.weight") && !moved("model.embed_tokens.weight"));
}

#[test]
fn a_classifier_is_trained_measured_and_merged() {
    let home = Home::new();
    let classes = home.classes();
    let recipe = home.recipe("");
    let settings = [
        format!("data.train.0.path={classes}"),
        format!("data.eval=[{{path={classes:?}}}]"),
        "objective.kind=classify".into(),
        "train.max_steps=40".into(),
        "train.eval_strategy=epoch".into(),
        "train.save_strategy=no".into(),
        "train.learning_rate=2e-2".into(),
    ];
    let mut args = vec!["train", recipe.as_str()];
    // `save_steps` has no effect without saving by steps.
    let text = fs::read_to_string(&recipe).unwrap().replace("save_steps = 2\n", "");
    fs::write(&recipe, text).unwrap();
    for setting in &settings {
        args.extend(["--set", setting]);
    }
    finetune(&home, &args).works();
    let suite = home.file(
        "suite.toml",
        &format!("[[task]]\nname = \"classes\"\nkind = \"classification\"\ndata = {classes:?}\nmax_length = 100\n"),
    );
    let (model, adapter, merged) = (tiny().display().to_string(), home.at("run"), home.at("merged"));
    let measured = |args: &[&str]| {
        let mut all = vec!["evaluate", "--suite", &suite, "--json"];
        all.extend(args);
        finetune(&home, &all).works().json_lines().remove(0)["tasks"]["classes"].clone()
    };
    let with_adapter = measured(&["--model", &model, "--adapter", &adapter, "--dtype", "f32"]);
    assert!(with_adapter["accuracy"].as_f64().unwrap() > 0.9, "{with_adapter}");
    assert_eq!(with_adapter["labels"], serde_json::json!(["bad", "good"]));
    finetune(
        &home,
        &["merge", "--model", &model, "--adapter", &adapter, "--output", &merged],
    )
    .works();
    let alone = measured(&["--model", &merged, "--dtype", "f32"]);
    assert_eq!(alone["confusion"], with_adapter["confusion"]);
}

#[test]
fn several_sets_are_mixed_and_measured_apart() {
    let home = Home::new();
    let (chats, texts) = (home.chats(), home.texts());
    let recipe = home.recipe("eval_strategy = \"epoch\"\n");
    let mixture = format!("data.train=[{{path={chats:?},weight=2.0}},{{path={texts:?},weight=0.5,max_samples=6}}]");
    let eval = format!("data.eval=[{{path={chats:?},max_samples=5}},{{path={texts:?},max_samples=5}}]");
    finetune(
        &home,
        &[
            "train",
            &recipe,
            "--set",
            &mixture,
            "--set",
            &eval,
            "--set",
            "data.mix_strategy=interleave_over",
        ],
    )
    .works();
    let metrics = fs::read_to_string(home.path().join("run/metrics.jsonl")).unwrap();
    assert!(
        metrics.contains("eval/chats_loss") && metrics.contains("eval/texts_loss"),
        "{metrics}"
    );
}
