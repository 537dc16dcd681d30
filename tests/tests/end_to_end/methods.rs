//! What is put into a model besides LoRA: DoRA and bottleneck adapters, from recipe to files and back.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::command::{Home, finetune, losses, perplexity, tiny};

/// Trains the recipe with another surgery; its run lies in `run`.
fn train(home: &Home, surgery: &str, more: &[&str]) -> String {
    let recipe = home.recipe("");
    let surgery = format!("surgery.0={surgery}");
    let run = format!("train.output_dir={}", home.at("run"));
    let mut args = vec![
        "train",
        recipe.as_str(),
        "--set",
        surgery.as_str(),
        "--set",
        run.as_str(),
    ];
    for setting in more {
        args.extend(["--set", setting]);
    }
    finetune(home, &args).works();
    home.at("run")
}

fn inspected(home: &Home, what: &str) -> Value {
    finetune(home, &["inspect", what, "--json"])
        .works()
        .json_lines()
        .remove(0)
}

#[test]
fn a_dora_adapter_is_trained_read_and_merged() {
    let model = tiny().display().to_string();
    for surgery in [
        "{kind=\"dora\",r=3,lora_alpha=6}",
        "{kind=\"dora\",r=3,lora_alpha=6,exact_norm=true,lora_dropout=0.2}",
        "{kind=\"dora\",r=2,target_modules=[\"q_proj\"],magnitude_only_modules=[\"up_proj\",\"lm_head\"]}",
    ] {
        let home = Home::new();
        let run = train(&home, surgery, &[]);
        let losses = losses(Path::new(&run));
        assert!(losses.last() < losses.first(), "{surgery}: {losses:?}");
        assert_eq!(inspected(&home, &run)["method"], "DoRA");
        let merged = home.at("merged");
        finetune(
            &home,
            &["merge", "--model", &model, "--adapter", &run, "--output", &merged],
        )
        .works();
        let with = perplexity(&home, &["--model", &model, "--adapter", &run]);
        let (alone, before) = (
            perplexity(&home, &["--model", &merged]),
            perplexity(&home, &["--model", &model]),
        );
        assert!((with / alone - 1.0).abs() < 1e-5, "{surgery}: {with} {alone}");
        assert!((with / before - 1.0).abs() > 1e-3, "{surgery}: {with} {before}");
    }
}

#[test]
fn use_dora_in_a_lora_is_the_same_to_the_byte() {
    let bytes = |surgery: &str| {
        let home = Home::new();
        let run = train(&home, surgery, &[]);
        fs::read(Path::new(&run).join("adapter_model.safetensors")).unwrap()
    };
    let named = bytes("{kind=\"dora\",r=2}");
    assert!(named == bytes("{kind=\"lora\",r=2,use_dora=true}"), "the two differ");
    assert!(named != bytes("{kind=\"lora\",r=2}"));
}

#[test]
fn a_stopped_dora_run_goes_on_bit_for_bit() {
    let surgery = "{kind=\"dora\",r=3,lora_dropout=0.1}";
    let whole = Home::new();
    let whole = train(&whole, surgery, &[]);
    let home = Home::new();
    let run = train(&home, surgery, &[]);
    // As if it had ended after its fourth step.
    fs::remove_dir_all(Path::new(&run).join("checkpoint-6")).unwrap();
    let recipe = Path::new(&run).join("recipe.toml").display().to_string();
    finetune(&home, &["train", &recipe, "--resume"]).works();
    let bytes = |run: &str| fs::read(Path::new(run).join("adapter_model.safetensors")).unwrap();
    assert!(bytes(&whole) == bytes(&run), "the resumed run came to another adapter");
}

#[test]
fn bottleneck_adapters_are_trained_and_read_but_never_merged() {
    let model = tiny().display().to_string();
    for surgery in [
        "{kind=\"adapter\",config=\"double_seq_bn\",reduction_factor=4,train_norms=true,dropout=0.1}",
        "{kind=\"adapter\",config=\"par_bn\",scaling=\"learned\",leave_out=[0]}",
    ] {
        let home = Home::new();
        let run = train(&home, surgery, &["train.learning_rate=5e-2"]);
        let found = losses(Path::new(&run));
        assert!(found.last() < found.first(), "{surgery}: {found:?}");
        let facts = inspected(&home, &run);
        assert_eq!(facts["method"], "bottleneck adapters");
        let (with, before) = (
            perplexity(&home, &["--model", &model, "--adapter", &run]),
            perplexity(&home, &["--model", &model]),
        );
        assert!(with < before * 0.99, "{surgery}: {with} {before}");
        for (verb, more) in [("merge", &[][..]), ("export", &["--format", "hf"][..])] {
            let out = home.at("merged");
            let args = [
                &[verb, "--model", &model, "--adapter", &run, "--output", &out][..],
                more,
            ]
            .concat();
            finetune(&home, &args).fails_with(1, &["cannot be merged", "not linear", "hint:"]);
            assert!(!Path::new(&out).exists());
        }
        finetune(&home, &["analyse", "--model", &model, "--adapter", &run]).fails_with(1, &["move none of them"]);
    }
}

#[test]
fn a_classifier_of_adapters_brings_its_head_along() {
    let home = Home::new();
    let classes = home.classes();
    let recipe = home.recipe("");
    let data = format!("data.train.0.path={classes}");
    let settings = [
        "surgery.0={kind=\"adapter\",reduction_factor=2}",
        "objective.kind=classify",
        "train.max_steps=40",
        "train.save_steps=40",
        "train.learning_rate=2e-2",
        &data,
    ];
    let mut args = vec!["train", recipe.as_str()];
    for setting in settings {
        args.extend(["--set", setting]);
    }
    finetune(&home, &args).works();
    let suite = home.file(
        "suite.toml",
        &format!("[[task]]\nname = \"classes\"\nkind = \"classification\"\ndata = {classes:?}\nmax_length = 100\n"),
    );
    let (model, run) = (tiny().display().to_string(), home.at("run"));
    let args = [
        "evaluate",
        "--suite",
        &suite,
        "--json",
        "--dtype",
        "f32",
        "--model",
        &model,
        "--adapter",
        &run,
    ];
    let found = finetune(&home, &args).works().json_lines().remove(0)["tasks"]["classes"].clone();
    assert_eq!(found["labels"], json!(["bad", "good"]));
    assert!(found["accuracy"].as_f64().unwrap() > 0.9, "{found}");
}

#[test]
fn how_weights_moved_is_measured_and_drawn() {
    let model = tiny().display().to_string();
    let (dora, full) = (Home::new(), Home::new());
    let run = train(&dora, "{kind=\"dora\",r=3}", &[]);
    let whole = train(&full, "{kind=\"full\"}", &["train.learning_rate=1e-3"]);
    let out = dora.at("analysis");
    let args = [
        "analyse",
        "--model",
        &model,
        "--checkpoints",
        &run,
        "--adapter",
        &whole,
        "--output",
        &out,
        "--json",
    ];
    let found = finetune(&dora, &args).works().json_lines().remove(0);
    // Two layers of queries and values, at three checkpoints and at one end.
    let (points, lines) = (found["points"].as_array().unwrap(), found["lines"].as_array().unwrap());
    assert_eq!((points.len(), lines.len()), (4 * 4, 2));
    assert_eq!(
        (&lines[0]["method"], &lines[1]["method"]),
        (&json!("full fine-tuning"), &json!("DoRA"))
    );
    for point in points {
        for number in ["delta_magnitude", "delta_direction"] {
            assert!(point[number].as_f64().is_some_and(|moved| moved > 0.0), "{point}");
        }
    }
    let moved = |checkpoint: &str| {
        let of = points.iter().filter(|point| point["checkpoint"] == checkpoint);
        of.map(|point| point["delta_direction"].as_f64().unwrap()).sum::<f64>()
    };
    assert!(moved("checkpoint-2") < moved("checkpoint-6"));
    assert!(
        lines
            .iter()
            .all(|line| line["slope"].is_number() && line["correlation"].is_number()),
        "{lines:?}"
    );
    let picture = fs::read_to_string(Path::new(&out).join("magnitude-direction.svg")).unwrap();
    // A circle a point and one a legend.
    assert_eq!(picture.matches("<circle").count(), 16 + 2);
    let written: Value = serde_json::from_slice(&fs::read(Path::new(&out).join("analysis.json")).unwrap()).unwrap();
    assert_eq!(written, found);
    let shown = finetune(&dora, &["analyse", "--model", &model, "--checkpoints", &run])
        .works()
        .stdout;
    assert!(
        shown.contains("q_proj ΔM") && shown.contains("ΔM over ΔD: slope"),
        "{shown}"
    );
    let none = dora.at("nowhere");
    for (args, parts) in [
        (["--checkpoints", &out], ["checkpoint-N", "found none"]),
        (["--checkpoints", &none], ["nowhere", "cannot be read"]),
    ] {
        finetune(&dora, &[&["analyse", "--model", &model][..], &args].concat()).fails_with(1, &parts);
    }
    finetune(&dora, &["analyse", "--model", &model]).fails_with(2, &["--adapter"]);
    let wrong = [
        "analyse",
        "--model",
        &model,
        "--adapter",
        &run,
        "--target-modules",
        "q_prj",
    ];
    finetune(&dora, &wrong).fails_with(1, &["`q_prj`", "did you mean `q_proj`"]);
}
