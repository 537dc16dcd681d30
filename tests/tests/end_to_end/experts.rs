//! Mixtures of experts through the built command: upcycled, trained by every method, balanced, written, run.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tch::{Kind, Tensor};

use super::command::{Home, finetune, losses, metrics, perplexity, tiny};

fn upcycled(home: &Home, more: &[&str]) -> String {
    let (model, output) = (tiny().display().to_string(), home.at("experts"));
    let args = [
        &["upcycle", "--model", &model, "--num-experts", "4", "--output", &output][..],
        more,
    ];
    finetune(home, &args.concat()).works();
    output
}

/// Trains the recipe with these settings; its run lies in `name`.
fn train(home: &Home, name: &str, settings: &[&str]) -> String {
    let recipe = home.recipe("");
    let run = home.at(name);
    let output = format!("train.output_dir={run}");
    let mut args = vec!["train", recipe.as_str(), "--set", output.as_str()];
    for setting in settings {
        args.extend(["--set", setting]);
    }
    finetune(home, &args).works();
    run
}

#[test]
fn an_upcycled_model_scores_as_its_parent_and_answers() {
    let home = Home::new();
    let model = upcycled(&home, &[]);
    let (parent, now) = (
        perplexity(&home, &["--model", &tiny().display().to_string()]),
        perplexity(&home, &["--model", &model]),
    );
    assert!((now / parent - 1.0).abs() < 1e-5, "{now} {parent}");
    let seen = finetune(&home, &["inspect", &model, "--json"])
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(seen["architecture"], "MixtralForCausalLM");
    assert_eq!(
        (seen["num_experts"].as_u64(), seen["num_experts_per_tok"].as_u64()),
        (Some(4), Some(2))
    );
    let prompt = [
        "--prompt",
        "What is quick?",
        "--max-new-tokens",
        "5",
        "--temperature",
        "0",
        "--dtype",
        "f32",
    ];
    let tiny = tiny().display().to_string();
    let answer = |model: &str| {
        finetune(&home, &[&["generate", "--model", model][..], &prompt].concat())
            .works()
            .stdout
    };
    assert_eq!(answer(&model), answer(&tiny));
    let again = finetune(&home, &["upcycle", "--model", &tiny, "--output", &model]);
    again.fails_with(1, &["a model is there already", "hint: "]);
}

#[test]
fn only_the_experts_that_a_task_goes_to_are_trained() {
    let home = Home::new();
    let model = upcycled(&home, &[]);
    let chats = home.chats();
    let args = [
        "experts",
        "--model",
        &model,
        "--relevant",
        "0.5",
        "--data",
        &chats,
        "--dtype",
        "f32",
    ];
    let told = finetune(&home, &[&args[..], &["--json"]].concat())
        .works()
        .json_lines()
        .remove(0);
    let layers = told["layers"].as_array().unwrap();
    assert_eq!(layers.len(), told["unfrozen_parameters"].as_array().unwrap().len());
    for layer in layers {
        assert!(layer["share"].as_f64().unwrap() >= 0.5, "{layer}");
        assert!((1..4).contains(&layer["experts"].as_array().unwrap().len()), "{layer}");
    }
    let shown = finetune(&home, &args).works().stdout;
    assert!(
        shown.starts_with("[[surgery]]") && shown.parse::<toml::Table>().is_ok(),
        "{shown}"
    );
    let patterns: Vec<String> = told["unfrozen_parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pattern| format!("'{}'", pattern.as_str().unwrap()))
        .collect();
    let surgery = format!(
        "surgery.0={{kind=\"full\", unfrozen_parameters=[{}]}}",
        patterns.join(", ")
    );
    let from = format!("model.name_or_path={model:?}");
    let run = train(&home, "esft", &[&from, &surgery]);
    let read = |folder: &str| golden::Vectors::open_file(&Path::new(folder).join("model.safetensors"));
    let (before, after) = (read(&model), read(&run));
    for layer in layers {
        let at = layer["layer"].as_str().unwrap();
        let chosen: Vec<u64> = layer["experts"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        for expert in 0..4 {
            let name = format!("{at}.experts.{expert}.w1.weight");
            let is_same = before.get(&name) == after.get(&name);
            assert_eq!(is_same, !chosen.contains(&expert), "{name}");
        }
        let gate = format!("{at}.gate.weight");
        assert_eq!(before.get(&gate), after.get(&gate), "{gate}");
    }
}

#[test]
fn fewer_experts_are_written_in_the_models_own_dtype_whatever_the_machine_multiplies_faster() {
    let home = Home::new();
    let texts = home.texts();
    for (dtype, kind, faster) in [("f32", Kind::Float, 1000.0), ("bf16", Kind::BFloat16, 0.001)] {
        let mixture = home.at(&format!("of-{dtype}"));
        let tiny = tiny().display().to_string();
        let make = [
            "upcycle",
            "--model",
            &tiny,
            "--num-experts",
            "4",
            "--dtype",
            dtype,
            "--output",
            &mixture,
        ];
        finetune(&home, &make).works();
        home.rates(faster);
        let fewer = home.at(&format!("fewer-{dtype}"));
        let keep = [
            "experts", "--model", &mixture, "--keep", "2", "--by", "usage", "--data", &texts, "--output", &fewer,
        ];
        finetune(&home, &keep).works();
        let tensors = |folder: &str| -> Vec<(String, Tensor)> {
            Tensor::read_safetensors(Path::new(folder).join("model.safetensors")).unwrap()
        };
        let before = tensors(&mixture);
        for (name, tensor) in tensors(&fewer) {
            assert_eq!(tensor.kind(), kind, "{name}");
            // What is no expert's is copied bit for bit.
            if !name.contains("block_sparse_moe") {
                let (_, old) = before.iter().find(|(old, _)| *old == name).unwrap();
                assert!(tensor.equal(old), "{name}");
            }
        }
    }
}

#[test]
fn a_run_may_give_tokens_to_all_experts_or_skip_the_lesser_ones() {
    let home = Home::new();
    let model = upcycled(&home, &[]);
    let from = format!("model.name_or_path={model:?}");
    let first = |name: &str, router: &str| {
        let run = train(&home, name, &[&from, router, "train.max_steps=2"]);
        losses(Path::new(&run))[0]
    };
    // Copies answer alike, so the loss is the parent's however many of them are asked.
    let (sparse, dense) = (
        first("a", "router={router_aux_loss_coef=0.0}"),
        first("b", "router={gating=\"dense\", router_aux_loss_coef=0.0}"),
    );
    let skipping = first("c", "router={skip_below=0.9, router_aux_loss_coef=0.0}");
    assert!(
        (sparse - dense).abs() < 1e-4 && (sparse - skipping).abs() < 1e-4,
        "{sparse} {dense} {skipping}"
    );
    let refused = |settings: &[&str], wanted: &str| {
        let recipe = home.recipe("");
        let mut args = vec!["train", recipe.as_str()];
        args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        finetune(&home, &args).fails_with(1, &[wanted]);
    };
    refused(
        &[&from, "router={gating=\"dense\", skip_below=0.5}"],
        "`router.skip_below`",
    );
    refused(
        &[
            "surgery=[{kind=\"upcycle\"},{kind=\"full\"}]",
            "router={gating=\"dense\"}",
        ],
        "write the mixture with `finetune upcycle`",
    );
}

#[test]
fn experts_from_tuned_copies_are_their_feed_forwards_and_the_rest_their_mean() {
    let home = Home::new();
    let full = "surgery.0={kind=\"full\"}";
    let copies = [
        train(&home, "a", &[full]),
        train(&home, "b", &[full, "train.seed=9", "train.learning_rate=3e-3"]),
    ];
    let (model, output) = (tiny().display().to_string(), home.at("mixed"));
    let args = [
        "upcycle", "--model", &model, "--expert", &copies[0], "--expert", &copies[1], "--output", &output,
    ];
    let told = finetune(&home, &[&args[..], &["--json"]].concat())
        .works()
        .json_lines()
        .remove(0);
    assert_eq!(
        (told["experts"].as_u64(), told["equals_parent"].as_bool()),
        (Some(2), Some(false))
    );
    let read = |folder: &str| golden::Vectors::open_file(&Path::new(folder).join("model.safetensors"));
    let (a, b, mixed) = (read(&copies[0]), read(&copies[1]), read(&output));
    let moe = "model.layers.1.block_sparse_moe.experts";
    for (idx, copy) in [(0, &a), (1, &b)] {
        for (new, old) in [("w1", "gate"), ("w3", "up"), ("w2", "down")] {
            let dense = copy.get(&format!("model.layers.1.mlp.{old}_proj.weight"));
            assert_eq!(mixed.get(&format!("{moe}.{idx}.{new}.weight")), dense);
        }
    }
    let name = "model.layers.0.self_attn.q_proj.weight";
    golden::assert_close(
        "mean",
        &mixed.get(name),
        &((a.get(name) + b.get(name)) / 2.0),
        1e-6,
        1e-6,
    );
    assert!(perplexity(&home, &["--model", &output]).is_finite());
    let odd = [
        "upcycle",
        "--model",
        &model,
        "--expert",
        &copies[0],
        "--expert",
        &copies[1],
        "--num-experts",
        "3",
    ];
    finetune(&home, &[&odd[..], &["--output", &home.at("odd")]].concat())
        .fails_with(2, &["`--num-experts`", "a multiple of the 2 copies, found 3"]);
}

#[test]
fn adapters_packed_weights_and_halves_reach_the_experts() {
    let home = Home::new();
    let model = upcycled(&home, &["--noise-scale", "0.2"]);
    let named = format!("model.name_or_path={model}");
    // LoRA on every projection, and merged.
    let lora = train(
        &home,
        "lora",
        &[&named, "surgery.0={kind=\"lora\",r=2,target_modules=\"all-linear\"}"],
    );
    assert!(losses(Path::new(&lora)).last() < losses(Path::new(&lora)).first());
    let adapter = golden::Vectors::open_file(&Path::new(&lora).join("adapter_model.safetensors"));
    let key = "base_model.model.model.layers.1.block_sparse_moe.experts.3.w2.lora_B.weight";
    assert!(adapter.get(key).abs().max().double_value(&[]) > 0.0);
    let merged = home.at("merged");
    finetune(
        &home,
        &["merge", "--model", &model, "--adapter", &lora, "--output", &merged],
    )
    .works();
    let (with, alone) = (
        perplexity(&home, &["--model", &model, "--adapter", &lora]),
        perplexity(&home, &["--model", &merged]),
    );
    assert!((with / alone - 1.0).abs() < 1e-5, "{with} {alone}");
    // QLoRA: every expert in 4 bits.
    let qlora = train(
        &home,
        "qlora",
        &[
            &named,
            "surgery=[{kind=\"quantize\"},{kind=\"lora\",r=2,target_modules=[\"w1\",\"w2\",\"w3\"]}]",
        ],
    );
    assert!(losses(Path::new(&qlora)).last() < losses(Path::new(&qlora)).first());
    // Halves of experts and routers.
    let hft = train(
        &home,
        "hft",
        &[&named, "surgery.0={kind=\"hft\"}", "train.learning_rate=3e-3"],
    );
    let read = |folder: &str| golden::Vectors::open_file(&Path::new(folder).join("model.safetensors"));
    let (before, after) = (read(&model), read(&hft));
    let experts: Vec<&str> = before.names().filter(|name| name.contains(".experts.")).collect();
    let moved = experts
        .iter()
        .filter(|name| before.get(name) != after.get(name))
        .count();
    assert_eq!((experts.len(), moved), (24, 12));
}

const ROUTERS: &str = "surgery=[{kind=\"upcycle\",num_local_experts=4,noise_scale=0.05},{kind=\"full\",unfrozen_parameters=['block_sparse_moe']}]";

#[test]
fn load_is_logged_and_a_bias_moves_and_resumes_bit_for_bit() {
    let home = Home::new();
    let settings = [
        ROUTERS,
        "router.router_bias_update_rate=0.01",
        "router.router_aux_loss_coef=0.0",
        "router.router_jitter_noise=0.1",
        "train.learning_rate=3e-3",
        "train.gradient_accumulation_steps=2",
    ];
    let whole = train(&home, "whole", &settings);
    let entries = metrics(Path::new(&whole));
    let first = entries.iter().find(|entry| entry["loss"].is_f64()).unwrap();
    for layer in 0..2 {
        let shares = (0..4).map(|expert| first[format!("expert_load/{layer}/{expert}")].as_f64().unwrap());
        assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
    }
    assert!(first["max_violation"].as_f64().unwrap() > 0.0);
    assert!(first["side_loss"].is_null(), "no loss was asked for: {first}");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(Path::new(&whole).join("config.json")).unwrap()).unwrap();
    assert_eq!(config["router_bias"], true);
    let bytes = |run: &str| fs::read(Path::new(run).join("model.safetensors")).unwrap();
    let bias = golden::Vectors::open_file(&Path::new(&whole).join("model.safetensors"))
        .get("model.layers.1.block_sparse_moe.gate.e_score_correction_bias");
    assert!(bias.abs().max().double_value(&[]) > 0.0);
    assert!(
        perplexity(&home, &["--model", &whole]).is_finite(),
        "read back with its bias"
    );
    // The same run in two halves.
    let halves = train(&home, "halves", &[&settings[..], &["train.max_steps=6"]].concat());
    for checkpoint in ["checkpoint-6", "checkpoint-4"] {
        fs::remove_dir_all(Path::new(&halves).join(checkpoint)).unwrap();
    }
    fs::remove_file(Path::new(&halves).join("model.safetensors")).unwrap();
    let recipe = home.recipe("");
    let output = format!("train.output_dir={halves}");
    let mut args = vec!["train", recipe.as_str(), "--resume", "--set", output.as_str()];
    for setting in &settings {
        args.extend(["--set", setting]);
    }
    finetune(&home, &args).works();
    assert_eq!(bytes(&halves), bytes(&whole));
    assert_eq!(metrics(Path::new(&halves)), entries);
}

#[test]
fn the_balance_loss_is_part_of_the_loss_and_evens_the_load() {
    let home = Home::new();
    let run = |name: &str, coefficient: &str| {
        let aux = format!("router.router_aux_loss_coef={coefficient}");
        let settings = [
            ROUTERS,
            aux.as_str(),
            "router.router_z_loss_coef=0.001",
            "train.max_steps=30",
        ];
        let entries = metrics(Path::new(&train(&home, name, &settings)));
        let all: Vec<f64> = entries
            .iter()
            .filter_map(|entry| entry["max_violation"].as_f64())
            .collect();
        assert!(
            entries
                .iter()
                .all(|entry| entry["loss"].is_null() || entry["side_loss"].as_f64() > Some(0.0))
        );
        all[all.len() - 10..].iter().sum::<f64>() / 10.0
    };
    let (without, with) = (run("without", "0.0"), run("with", "1.0"));
    assert!(with < 0.7 * without, "{without} without, {with} with a balance loss");
}

#[test]
fn what_does_not_fit_experts_is_refused() {
    let home = Home::new();
    let recipe = home.recipe("");
    let refused = |settings: &[&str], parts: &[&str]| {
        let mut args = vec!["train", recipe.as_str()];
        for setting in settings {
            args.extend(["--set", setting]);
        }
        finetune(&home, &args).fails_with(1, parts);
    };
    refused(
        &["router.router_aux_loss_coef=0.1"],
        &["`router`", "no experts", "hint: "],
    );
    refused(
        &["router.router_jitter_noise=2.0"],
        &["`router.router_jitter_noise`", "from 0 to 1"],
    );
    refused(
        &["router.router_aux_loss=2.0"],
        &["no such key", "`router_aux_loss_coef`"],
    );
    refused(
        &["surgery=[{kind=\"upcycle\"},{kind=\"lora\"}]"],
        &["kept beside its base", "finetune upcycle"],
    );
    refused(
        &["surgery=[{kind=\"upcycle\",num_local_experts=2,num_experts_per_tok=3},{kind=\"full\"}]"],
        &["`num_experts_per_tok`: wanted 1 to 2, found 3"],
    );
    refused(
        &["surgery=[{kind=\"full\"},{kind=\"upcycle\"}]"],
        &["a surgery before it that trains", "put it first"],
    );
}

#[test]
fn fewer_experts_are_the_nearest_the_most_used_any_or_merged() {
    let home = Home::new();
    let model = upcycled(&home, &["--noise-scale", "0.5", "--router-scale", "0.5"]);
    let texts = home.texts();
    let fewer = |by: &str, keep: &str| {
        let output = home.at(&format!("{by}-{keep}"));
        let args = [
            "experts", "--model", &model, "--data", &texts, "--by", by, "--keep", keep, "--output", &output,
        ];
        let told = finetune(&home, &[&args[..], &["--json", "--dtype", "f32"]].concat())
            .works()
            .json_lines()
            .remove(0);
        (output, told)
    };
    let whole = perplexity(&home, &["--model", &model]);
    let (same, told) = fewer("nearest", "4");
    assert!(told["layers"][0]["distance"].as_f64().unwrap() < 1e-3, "{told}");
    assert!((perplexity(&home, &["--model", &same]) / whole - 1.0).abs() < 1e-6);
    let distance = |told: &serde_json::Value| {
        let layers = told["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| layer["distance"].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    let (nearest, near) = fewer("nearest", "2");
    for by in ["usage", "random"] {
        let (folder, told) = fewer(by, "2");
        assert!(
            distance(&near)
                .iter()
                .zip(distance(&told))
                .all(|(least, other)| *least <= other + 1e-6),
            "{by}: {told}"
        );
        let seen = finetune(&home, &["inspect", &folder, "--json"])
            .works()
            .json_lines()
            .remove(0);
        assert_eq!(seen["num_experts"].as_u64(), Some(2));
    }
    let left = perplexity(&home, &["--model", &nearest]);
    assert!(left.is_finite() && (left / whole - 1.0).abs() > 1e-4, "{left} {whole}");
    // Merged experts are written once for each row of the router.
    let (merged, told) = fewer("merge", "2");
    assert_eq!(told["experts_written"], 4, "{told}");
    assert_eq!(near["experts_written"], 2, "{near}");
    let tensors = golden::Vectors::open_file(&Path::new(&merged).join("model.safetensors"));
    let experts: Vec<Vec<f32>> = (0..4)
        .map(|idx| {
            let name = format!("model.layers.0.block_sparse_moe.experts.{idx}.w1.weight");
            tensors.get(&name).flatten(0, -1).try_into().unwrap()
        })
        .collect();
    let distinct = (0..4).filter(|&idx| !experts[..idx].contains(&experts[idx])).count();
    assert_eq!(distinct, 2);
    assert!(perplexity(&home, &["--model", &merged]).is_finite());
    let tiny = tiny().display().to_string();
    let dense = [
        "experts",
        "--model",
        &tiny,
        "--data",
        &texts,
        "--keep",
        "2",
        "--output",
        &home.at("no"),
    ];
    finetune(&home, &dense).fails_with(1, &["wanted a mixture of experts", "finetune upcycle"]);
    let many = [
        "experts",
        "--model",
        &model,
        "--data",
        &texts,
        "--keep",
        "9",
        "--output",
        &home.at("no"),
    ];
    finetune(&home, &many).fails_with(2, &["`--keep`: wanted 1 to 4, found 9"]);
}
