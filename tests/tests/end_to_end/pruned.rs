//! Pruning through the command: the zeros that were asked for, and that they stay.

use std::fs;
use std::path::Path;

use checkpoint::{Safetensors, TensorInfo};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::command::{Home, finetune, losses, root, tiny};

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
fn a_machine_that_is_faster_in_bf16_writes_the_same_numbers() {
    let home = Home::new();
    let (model, out) = (tiny().display().to_string(), home.at("thin"));
    home.rates(1000.0);
    let args = [
        "prune",
        "--model",
        &model,
        "--method",
        "magnitude",
        "--sparsity",
        "0.5",
        "--output",
        &out,
    ];
    finetune(&home, &args).works();
    let before = tensors(&model);
    for (name, tensor) in tensors(&out) {
        let (_, old) = before.iter().find(|(old, _)| *old == name).unwrap();
        let kept = tensor.where_self(&tensor.ne(0.0), old);
        assert!(tensor.kind() == Kind::Float && kept.equal(old), "{name}");
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
    trained_by(home, surgeries, "{kind=\"sft\"}")
}

fn trained_by(home: &Home, surgeries: &str, objective: &str) -> String {
    let recipe = home.recipe("");
    let (model, run) = (home.at("pruned"), home.at("run"));
    let settings = [
        format!("surgery={surgeries}"),
        format!("objective={objective}"),
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
    let cases: [(i32, &[&str], &[&str]); 7] = [
        (
            2,
            &["--method", "wanda", "--sparsity", "0.5"],
            &["`calibration` is missing", "hint:"],
        ),
        (
            2,
            &["--method", "magnitude", "--sparsity", "1.5"],
            &["`sparsity`: 1.5 is no share", "hint:"],
        ),
        (2, &["--method", "magnitude"], &["`sparsity`: is missing"]),
        (
            2,
            &["--method", "magnitude", "--sparsity", "0.5", "--calibration", &texts],
            &["looks at no text"],
        ),
        (
            1,
            &["--method", "magnitude", "--pattern", "2:5"],
            &["model.layers.0.self_attn.q_proj", "5 divides, found 32"],
        ),
        (
            2,
            &["--method", "magnitude", "--sparsity", "0.5", "--damping", "1"],
            &["`damping`", "SparseGPT's"],
        ),
        (
            1,
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
    for (code, options, wanted) in cases {
        let args = [&["prune", "--model", &model, "--output", &out][..], options].concat();
        finetune(&home, &args).fails_with(code, wanted);
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

/// The tiny model with some of its tensors changed, as a folder.
fn changed(home: &Home, change: impl Fn(&str, Tensor) -> Tensor) -> String {
    let model = home.model();
    let infos: Vec<(String, Tensor)> = tensors(&model)
        .into_iter()
        .map(|(name, value)| {
            let value = change(&name, value).contiguous();
            (name, value)
        })
        .collect();
    let listed: Vec<TensorInfo> = infos
        .iter()
        .map(|(name, value)| TensorInfo {
            name: name.clone(),
            shape: value.size(),
            kind: value.kind(),
        })
        .collect();
    checkpoint::write_safetensors(&Path::new(&model).join("model.safetensors"), &listed, |info| {
        let found = infos.iter().find(|(name, _)| *name == info.name);
        Ok(found.map(|(_, value)| value.shallow_clone()).unwrap())
    })
    .unwrap();
    model
}

fn logits(home: &Home, model: &str) -> Vec<(String, Tensor)> {
    let (texts, out) = (home.texts(), home.at("logits.safetensors"));
    let args = [
        "score", "--model", model, "--data", &texts, "--logits", &out, "--dtype", "f32",
    ];
    finetune(home, &args).works();
    let file = Safetensors::open(Path::new(&out)).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    names
        .into_iter()
        .map(|name| (name.clone(), file.tensor(&name).unwrap()))
        .collect()
}

fn cut(home: &Home, model: &str, name: &str, options: &[&str]) -> Value {
    let (texts, out) = (home.texts(), home.at(name));
    let all = [
        &[
            "prune",
            "--model",
            model,
            "--output",
            &out,
            "--calibration",
            &texts,
            "--eval",
            &texts,
        ][..],
        &["--dtype", "f32", "--json"],
        options,
    ];
    finetune(home, &all.concat()).works().json_lines().remove(0)
}

#[test]
fn a_block_that_does_nothing_goes_and_nothing_changes() {
    for method in ["block-influence", "angular"] {
        let home = Home::new();
        let idle = |name: &str| {
            name.starts_with("model.layers.0")
                && (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight"))
        };
        let model = changed(&home, |name, value| if idle(name) { value.zeros_like() } else { value });
        let report = cut(
            &home,
            &model,
            "smaller",
            &["--method", method, "--num-hidden-layers", "1"],
        );
        assert_eq!(report["parts"]["gone_layers"], serde_json::json!([0]), "{method}");
        let smaller = home.at("smaller");
        for ((_, before), (_, after)) in logits(&home, &model).iter().zip(&logits(&home, &smaller)) {
            assert!(before.equal(after), "{method}");
        }
        let config: Value =
            serde_json::from_slice(&fs::read(Path::new(&smaller).join("config.json")).unwrap()).unwrap();
        assert_eq!(config["num_hidden_layers"], 1);
        let bytes = |when: &str| report[when]["bytes"].as_u64().unwrap();
        // A block of 3 × 32 × 56 + 2 × 32 × 32 + 2 × 16 × 32 + 2 × 32 numbers of four bytes.
        assert_eq!(
            bytes("before") - bytes("after"),
            4 * (3 * 32 * 56 + 2 * 32 * 32 + 2 * 16 * 32 + 2 * 32)
        );
        assert_eq!(report["before"]["perplexity"], report["after"]["perplexity"]);
    }
}

#[test]
fn heads_and_channels_that_do_nothing_go_and_nothing_changes() {
    for method in ["taylor", "activation"] {
        let home = Home::new();
        // The second group of the first block and the first of the second, and two channels that differ from block to block:
        // what they hand on is zero for activation, and what is read of it is zero for Taylor.
        let model = changed(&home, |name, value| {
            let (first, groups) = (name.starts_with("model.layers.0"), [16, 0]);
            let group = groups[usize::from(!first)];
            let channels: [i64; 2] = if first { [3, 55] } else { [0, 17] };
            let by_use = method == "taylor";
            let zeroed = |value: Tensor, dim: i64, start: i64, length: i64| {
                // What is read lies over the file.
                let value = value.copy();
                let _ = value.narrow(dim, start, length).fill_(0.0);
                value
            };
            match name.rsplit('.').nth(1) {
                Some("o_proj") if by_use => zeroed(value, 1, group, 16),
                Some("v_proj") if !by_use => zeroed(value, 0, group / 2, 8),
                Some("down_proj") if by_use => channels.iter().fold(value, |value, &at| zeroed(value, 1, at, 1)),
                Some("up_proj") if !by_use => channels.iter().fold(value, |value, &at| zeroed(value, 0, at, 1)),
                _ => value,
            }
        });
        let options = [
            "--method",
            method,
            "--num-key-value-heads",
            "1",
            "--intermediate-size",
            "54",
        ];
        let report = cut(&home, &model, "smaller", &options);
        let smaller = home.at("smaller");
        for ((_, before), (_, after)) in logits(&home, &model).iter().zip(&logits(&home, &smaller)) {
            // Sums of other lengths round otherwise.
            golden_close(method, after, before);
        }
        let config: Value =
            serde_json::from_slice(&fs::read(Path::new(&smaller).join("config.json")).unwrap()).unwrap();
        let sizes = [
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "intermediate_size",
        ]
        .map(|key| config[key].clone());
        assert_eq!(sizes, [2, 1, 8, 54].map(Value::from));
        assert_eq!(report["parts"]["shape_after"]["num_attention_heads"], 2);
        assert!(report["after"]["bytes"].as_u64() < report["before"]["bytes"].as_u64());
    }
}

#[track_caller]
fn golden_close(name: &str, ours: &Tensor, theirs: &Tensor) {
    let apart = (ours - theirs).abs().max().double_value(&[]);
    assert!(apart < 1e-4 * theirs.abs().max().double_value(&[]), "{name}: {apart}");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let home = Home::new();
    let (model, texts, out) = (tiny().display().to_string(), home.texts(), home.at("out"));
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--method", "angular"], &["takes out blocks", "--num-hidden-layers"]),
        (
            &["--method", "angular", "--num-hidden-layers", "2"],
            &["from 1 to 1", "found 2"],
        ),
        (
            &["--method", "taylor", "--num-hidden-layers", "1"],
            &["heads and channels", "hint:"],
        ),
        (&["--method", "taylor"], &["--intermediate-size", "hint:"]),
        (
            &["--method", "activation", "--intermediate-size", "56"],
            &["from 1 to 55"],
        ),
        (
            &[
                "--method",
                "block-influence",
                "--num-hidden-layers",
                "1",
                "--intermediate-size",
                "8",
            ],
            &["a width beside"],
        ),
        (
            &["--method", "taylor", "--intermediate-size", "8", "--sparsity", "0.5"],
            &["`--sparsity`"],
        ),
        (
            &["--method", "wanda", "--sparsity", "0.5", "--intermediate-size", "8"],
            &["whole parts"],
        ),
    ];
    for (options, wanted) in cases {
        let args = [
            &["prune", "--model", &model, "--output", &out, "--calibration", &texts][..],
            options,
        ]
        .concat();
        finetune(&home, &args).fails_with(2, wanted);
        assert!(!Path::new(&out).exists());
    }
    let args = [
        "prune",
        "--model",
        &model,
        "--output",
        &out,
        "--method",
        "taylor",
        "--intermediate-size",
        "8",
    ];
    finetune(&home, &args).fails_with(2, &["`calibration` is missing"]);
}

#[test]
fn a_pruned_model_learns_from_the_one_that_it_was() {
    let home = Home::new();
    prune(&home, "pruned", &["--method", "magnitude", "--sparsity", "0.5"]);
    let teacher = tiny().display().to_string();
    let objective = format!("{{kind=\"distill\",teacher={teacher:?},temperature=2.0,alpha=0.25}}");
    let run = trained_by(
        &home,
        "[{kind=\"full\",freeze_embeddings=true},{kind=\"keep_zeros\"}]",
        &objective,
    );
    for ((path, before), (_, after)) in tensors(&home.at("pruned")).iter().zip(&tensors(&run)) {
        if is_pruned(path) {
            assert!(before.eq(0.0).equal(&after.eq(0.0)) && !before.equal(after), "{path}");
        }
    }
    let metrics = fs::read_to_string(Path::new(&run).join("metrics.jsonl")).unwrap();
    let kl: Vec<f64> = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap().get("kl")?.as_f64())
        .collect();
    assert!(
        kl.len() == 6 && kl.last() < kl.first() && kl.iter().all(|kl| *kl > 0.0),
        "{kl:?}"
    );
}

#[test]
fn pruning_and_recovery_are_one_recipe_and_resume_bit_for_bit() {
    let home = Home::new();
    let texts = home.texts();
    let surgeries = format!(
        "[{{kind=\"prune\",method=\"wanda\",pattern=\"2:4\",calibration={texts:?},max_length=32}},{{kind=\"full\"}},{{kind=\"keep_zeros\"}}]"
    );
    let teacher = tiny().display().to_string();
    let objective = format!("{{kind=\"distill\",teacher={teacher:?}}}");
    home.copy(&tiny(), "pruned");
    let run = trained_by(&home, &surgeries, &objective);
    let bytes = || fs::read(Path::new(&run).join("model.safetensors")).unwrap();
    let whole = bytes();
    for (path, value) in tensors(&run) {
        if is_pruned(&path) {
            assert_eq!(2 * zeros(&value), value.numel(), "{path}");
        }
    }
    fs::remove_dir_all(Path::new(&run).join("checkpoint-6")).unwrap();
    let recipe = Path::new(&run).join("recipe.toml").display().to_string();
    finetune(&home, &["train", &recipe, "--resume"]).works();
    assert!(whole == bytes(), "the resumed run came to another model");
}

#[test]
fn a_teacher_or_a_surgery_that_does_not_fit_is_refused() {
    let home = Home::new();
    let recipe = home.recipe("");
    let other = root()
        .join("crates/golden/vectors/families/llama-tied")
        .display()
        .to_string();
    let cases: [(String, &[&str]); 5] = [
        ("objective={kind=\"distill\"}".into(), &["missing field `teacher`"]),
        (
            format!("objective={{kind=\"distill\",teacher={other:?}}}"),
            &["objective.teacher", "tokenizer"],
        ),
        (
            "objective={kind=\"distill\",teacher=\"x\",temperature=0.0}".into(),
            &["objective.temperature", "above 0"],
        ),
        (
            "surgery=[{kind=\"prune\",method=\"magnitude\",sparsity=0.5},{kind=\"lora\"}]".into(),
            &["an adapter's file does not hold its base", "hint:"],
        ),
        (
            "surgery=[{kind=\"prune\",method=\"wanda\",sparsity=0.5},{kind=\"full\"}]".into(),
            &["`calibration` is missing", "hint:"],
        ),
    ];
    for (setting, wanted) in cases {
        finetune(&home, &["train", &recipe, "--set", &setting]).fails_with(1, wanted);
    }
}
