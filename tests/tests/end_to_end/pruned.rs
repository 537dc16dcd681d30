//! Pruning through the command: the zeros that were asked for, and that they stay.

use std::fs;
use std::path::Path;

use checkpoint::Safetensors;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::command::{Home, finetune, losses, tiny};

fn tensors(folder: &str) -> Vec<(String, Tensor)> {
    let file = Safetensors::open(&Path::new(folder).join("model.safetensors")).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    names
        .into_iter()
        .map(|name| (name.clone(), file.tensor(&name).unwrap()))
        .collect()
}

fn zeros(tensor: &Tensor) -> usize {
    tensor.eq(0.0).sum(Kind::Int64).int64_value(&[]) as usize
}

fn is_pruned(name: &str) -> bool {
    name.starts_with("model.layers") && name.ends_with("_proj.weight")
}

fn prune(home: &Home, name: &str, more: &[&str]) -> Value {
    let (model, texts, out) = (tiny().display().to_string(), home.texts(), home.at(name));
    let all = [
        &["prune", "--model", &model, "--output", &out, "--dtype", "f32", "--json"][..],
        &["--eval", &texts],
        more,
    ];
    finetune(home, &all.concat()).works().json_lines().remove(0)
}

#[test]
fn every_method_leaves_the_zeros_that_were_asked_for() {
    let home = Home::new();
    let texts = home.texts();
    let calibration = ["--calibration", texts.as_str(), "--max-length", "64"];
    let before = tensors(&tiny().display().to_string());
    for (idx, (options, looks)) in [
        (&["--method", "magnitude", "--sparsity", "0.5"][..], false),
        (
            &["--method", "magnitude", "--sparsity", "0.5", "--per", "global"],
            false,
        ),
        (&["--method", "magnitude", "--pattern", "2:4"], false),
        (&["--method", "wanda", "--sparsity", "0.5"], true),
        (
            &["--method", "sparsegpt", "--pattern", "2:4", "--damping", "0.05"],
            true,
        ),
        (
            &["--method", "sparsegpt", "--sparsity", "0.5", "--block-size", "16"],
            true,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("pruned-{idx}");
        let more = [options, if looks { &calibration } else { &[] }].concat();
        let report = prune(&home, &name, &more);
        let after = tensors(&home.at(&name));
        let (mut gone, mut all) = (0, 0);
        for ((path, before), (_, after)) in before.iter().zip(&after) {
            if !is_pruned(path) {
                assert!(before.equal(after), "{options:?}: {path} changed");
                continue;
            }
            (gone, all) = (gone + zeros(after), all + after.numel());
            if options.contains(&"2:4") {
                let groups = after
                    .eq(0.0)
                    .reshape([-1, 4])
                    .sum_dim_intlist([1].as_slice(), false, Kind::Int64);
                assert!(groups.eq(2).all().int64_value(&[]) == 1, "{options:?}: {path}");
            }
            let kept = before.where_self(&after.ne(0.0), &Tensor::zeros_like(after));
            assert_eq!(
                kept.equal(after),
                !options.contains(&"sparsegpt"),
                "{options:?}: {path} is changed or not"
            );
        }
        assert_eq!(2 * gone, all, "{options:?}");
        assert_eq!(
            (report["zeros"].as_u64(), report["sparsity"].as_f64()),
            (Some(gone as u64), Some(0.5))
        );
        assert_eq!(report["modules"].as_array().map(Vec::len), Some(14));
        assert_eq!(report["before"]["bytes"], report["after"]["bytes"]);
        let perplexity = |when: &str| report[when]["perplexity"].as_f64().unwrap();
        assert!(perplexity("before") != perplexity("after") && perplexity("after").is_finite());
        let beside: Value =
            serde_json::from_slice(&fs::read(home.path().join(&name).join("pruning.json")).unwrap()).unwrap();
        assert_eq!(beside, report);
        assert_eq!(report["calibration"].is_null(), !looks);
        // What is on disk is what was measured.
        let args = [
            "score",
            "--model",
            &home.at(&name),
            "--data",
            &texts,
            "--json",
            "--dtype",
            "f32",
        ];
        let scored = finetune(&home, &args).works().json_lines().pop().unwrap();
        let ratio = scored["perplexity"].as_f64().unwrap() / perplexity("after");
        assert!((ratio - 1.0).abs() < 1e-5, "{options:?}: {ratio}");
    }
}

#[test]
fn the_seed_names_the_samples() {
    let home = Home::new();
    let texts = home.texts();
    let of = |name: &str, seed: &str| {
        let options = [
            "--method",
            "wanda",
            "--sparsity",
            "0.5",
            "--calibration",
            &texts,
            "--nsamples",
            "3",
            "--seed",
            seed,
        ];
        let report = prune(&home, name, &options);
        assert_eq!(report["calibration"]["samples"], 3);
        fs::read(home.path().join(name).join("model.safetensors")).unwrap()
    };
    let first = of("a", "1");
    assert!(first == of("b", "1"), "the same seed prunes otherwise");
    assert!(first != of("c", "2"));
}

/// Trains the pruned model in `home` by `surgeries`.
fn trained(home: &Home, surgeries: &str) -> String {
    let recipe = home.recipe("");
    let (model, run) = (home.at("pruned"), home.at("run"));
    let settings = [
        format!("surgery={surgeries}"),
        format!("model.name_or_path={model}"),
        format!("train.output_dir={run}"),
    ];
    let mut args = vec!["train", recipe.as_str()];
    for setting in &settings {
        args.extend(["--set", setting]);
    }
    finetune(home, &args).works();
    let found = losses(Path::new(&run));
    assert!(found.last() < found.first(), "{surgeries}: {found:?}");
    run
}

#[test]
fn zeros_stay_through_training_of_the_weights_themselves() {
    for (surgeries, stay) in [
        ("[{kind=\"full\"},{kind=\"keep_zeros\"}]", true),
        ("[{kind=\"hft\"},{kind=\"keep_zeros\"}]", true),
        ("[{kind=\"full\"}]", false),
    ] {
        let home = Home::new();
        prune(&home, "pruned", &["--method", "magnitude", "--sparsity", "0.5"]);
        let run = trained(&home, surgeries);
        let (mut lost, mut moved) = (0, 0);
        for ((path, before), (_, after)) in tensors(&home.at("pruned")).iter().zip(&tensors(&run)) {
            if is_pruned(path) {
                lost += zeros(before) - zeros(after);
                moved += usize::from(!before.equal(after));
            }
        }
        assert_eq!(lost == 0, stay, "{surgeries}: {lost} zeros are lost");
        assert!(moved > 0, "{surgeries}");
    }
}

#[test]
fn zeros_stay_under_an_adapter_and_in_what_it_is_merged_into() {
    let home = Home::new();
    prune(&home, "pruned", &["--method", "magnitude", "--pattern", "2:4"]);
    let (model, texts) = (home.at("pruned"), home.texts());
    let run = trained(&home, "[{kind=\"lora\",r=3,lora_alpha=6},{kind=\"keep_zeros\"}]");
    let config: Value =
        serde_json::from_slice(&fs::read(Path::new(&run).join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["keep_zeros"], true);
    let merged = home.at("merged");
    finetune(
        &home,
        &["merge", "--model", &model, "--adapter", &run, "--output", &merged],
    )
    .works();
    let mut moved = 0;
    for ((path, before), (_, after)) in tensors(&model).iter().zip(&tensors(&merged)) {
        if is_pruned(path) {
            assert!(before.eq(0.0).equal(&after.eq(0.0)), "{path}");
            moved += usize::from(!before.equal(after));
        }
    }
    assert_eq!(moved, 14);
    let perplexity = |args: &[&str]| {
        let all = [&["score", "--data", &texts, "--json", "--dtype", "f32"][..], args].concat();
        finetune(&home, &all).works().json_lines().pop().unwrap()["perplexity"]
            .as_f64()
            .unwrap()
    };
    let (with, alone, before) = (
        perplexity(&["--model", &model, "--adapter", &run]),
        perplexity(&["--model", &merged]),
        perplexity(&["--model", &model]),
    );
    assert!((with / alone - 1.0).abs() < 1e-5, "{with} {alone}");
    assert!((with / before - 1.0).abs() > 1e-3, "{with} {before}");
}

#[test]
fn an_adapter_that_was_trained_without_the_mask_can_be_merged_under_it() {
    let home = Home::new();
    prune(&home, "pruned", &["--method", "magnitude", "--sparsity", "0.5"]);
    let model = home.at("pruned");
    let run = trained(&home, "[{kind=\"lora\",r=3,lora_alpha=6}]");
    for (name, more, stay) in [("free", &[][..], false), ("masked", &["--keep-zeros"], true)] {
        let out = home.at(name);
        let args = [
            &["merge", "--model", &model, "--adapter", &run, "--output", &out][..],
            more,
        ]
        .concat();
        finetune(&home, &args).works();
        for ((path, before), (_, after)) in tensors(&model).iter().zip(&tensors(&out)) {
            if is_pruned(path) {
                assert_eq!(before.eq(0.0).equal(&after.eq(0.0)), stay, "{name} {path}");
            }
        }
    }
}

#[test]
fn a_stopped_run_under_a_mask_goes_on_bit_for_bit() {
    let surgeries = "[{kind=\"lora\",r=3},{kind=\"keep_zeros\"}]";
    let bytes = |home: &Home| fs::read(home.path().join("run/adapter_model.safetensors")).unwrap();
    let home = Home::new();
    prune(&home, "pruned", &["--method", "magnitude", "--sparsity", "0.5"]);
    let run = trained(&home, surgeries);
    let whole = bytes(&home);
    // As if it had ended after its fourth step.
    fs::remove_dir_all(Path::new(&run).join("checkpoint-6")).unwrap();
    let recipe = Path::new(&run).join("recipe.toml").display().to_string();
    finetune(&home, &["train", &recipe, "--resume"]).works();
    assert!(whole == bytes(&home), "the resumed run came to another adapter");
}

#[test]
fn what_cannot_be_pruned_or_kept_is_refused() {
    let home = Home::new();
    let (model, texts, out) = (tiny().display().to_string(), home.texts(), home.at("out"));
    let cases: [(&[&str], &[&str]); 7] = [
        (
            &["--method", "wanda", "--sparsity", "0.5"],
            &["`--calibration` is missing", "hint:"],
        ),
        (
            &["--method", "magnitude", "--sparsity", "1.5"],
            &["`sparsity`: 1.5 is no share", "hint:"],
        ),
        (&["--method", "magnitude"], &["`sparsity`: is missing"]),
        (
            &["--method", "magnitude", "--sparsity", "0.5", "--calibration", &texts],
            &["looks at no text"],
        ),
        (
            &["--method", "magnitude", "--pattern", "2:5"],
            &["model.layers.0.self_attn.q_proj", "5 divides, found 32"],
        ),
        (
            &["--method", "magnitude", "--sparsity", "0.5", "--damping", "1"],
            &["`damping`", "SparseGPT's"],
        ),
        (
            &[
                "--method",
                "magnitude",
                "--sparsity",
                "0.5",
                "--target-modules",
                "q_prj",
            ],
            &["did you mean `q_proj`"],
        ),
    ];
    for (options, wanted) in cases {
        let args = [&["prune", "--model", &model, "--output", &out][..], options].concat();
        finetune(&home, &args).fails_with(1, wanted);
        assert!(!Path::new(&out).exists());
    }
    let args = [
        "prune",
        "--model",
        &model,
        "--output",
        &out,
        "--method",
        "wandaa",
        "--sparsity",
        "0.5",
    ];
    finetune(&home, &args).fails_with(2, &["wandaa", "magnitude"]);
    let there = home.model();
    let args = [
        "prune",
        "--model",
        &model,
        "--output",
        &there,
        "--method",
        "magnitude",
        "--sparsity",
        "0.5",
    ];
    finetune(&home, &args).fails_with(1, &["found one there", "hint:"]);
    let recipe = home.recipe("");
    for (surgeries, wanted) in [
        (
            "[{kind=\"lora\"},{kind=\"keep_zeros\"}]",
            &["`surgery.1`", "wanted a pruned model", "hint:"][..],
        ),
        (
            "[{kind=\"keep_zeros\"},{kind=\"lora\"}]",
            &["surgery.0", "make `keep_zeros` the last"],
        ),
    ] {
        let set = format!("surgery={surgeries}");
        finetune(&home, &["train", &recipe, "--set", &set]).fails_with(1, wanted);
    }
}
