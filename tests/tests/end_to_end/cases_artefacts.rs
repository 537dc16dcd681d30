//! Adapters that public bug reports tell of: what is written agrees with itself and is read as what was trained.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use checkpoint::{Safetensors, write_tensors};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::command::{Answer, Home, finetune, metrics, tiny};

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// An adapter of rank 4 for `q_proj` and `v_proj` of both layers of the tiny model, with `changes` to its configuration.
fn adapter(home: &Home, name: &str, changes: &Value) -> String {
    let mut config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none",
        "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "tiny", "inference_mode": true,
        "fan_in_fan_out": false, "modules_to_save": null, "init_lora_weights": true, "use_rslora": false,
        "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
    });
    for (key, value) in changes.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    if changes.get("peft_type") == Some(&Value::Null) {
        config.as_object_mut().expect("an object").remove("peft_type");
    }
    home.file(&format!("{name}/adapter_config.json"), &config.to_string());
    let mut tensors = HashMap::new();
    for layer in 0..2 {
        for (module, out) in [("q_proj", 32), ("v_proj", 16)] {
            let at = format!("base_model.model.model.layers.{layer}.self_attn.{module}");
            let numbers = |count: i64, seed: i64| {
                let numbers: Vec<f32> = (0..count)
                    .map(|n| ((n * 37 + seed) % 101) as f32 / 505.0 - 0.1)
                    .collect();
                Tensor::from_slice(&numbers)
            };
            tensors.insert(format!("{at}.lora_A.weight"), numbers(4 * 32, layer).view([4, 32]));
            tensors.insert(
                format!("{at}.lora_B.weight"),
                numbers(out * 4, layer + 7).view([out, 4]),
            );
        }
    }
    let path = home.path().join(name).join("adapter_model.safetensors");
    write_tensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).expect("written");
    home.at(name)
}

fn merge(home: &Home, adapter: &str, output: &str) -> Answer {
    let model = tiny().display().to_string();
    let output = home.at(output);
    finetune(
        home,
        &["merge", "--model", &model, "--adapter", adapter, "--output", &output],
    )
}

/// Trains the tiny model with these surgeries, two steps; the run's folder.
fn train(home: &Home, surgery: &str, more: &[&str]) -> (String, Answer) {
    let recipe = home.recipe("eval_strategy = \"steps\"\neval_steps = 2\n");
    let texts = home.texts();
    let settings = [
        format!("surgery={surgery}"),
        "train.max_steps=2".to_owned(),
        format!("data.eval=[{{path={texts:?}}}]"),
    ];
    let mut args = vec!["train", recipe.as_str()];
    for setting in settings.iter().map(String::as_str).chain(more.iter().copied()) {
        args.extend(["--set", setting]);
    }
    (home.at("run"), finetune(home, &args))
}

/// Nats a token of [`Home::texts`] as training reads them, with the end of text that it appends.
fn loss(home: &Home, args: &[&str]) -> f64 {
    let texts = fs::read_to_string(home.texts()).expect("rows");
    let ended = home.file("ended.jsonl", &texts.replace("\"}", "<|im_end|>\"}"));
    let all = [&["score", "--data", &ended, "--json", "--dtype", "f32"][..], args].concat();
    let last = finetune(home, &all).works().json_lines().pop().expect("lines");
    last["perplexity"].as_f64().expect("a number").ln()
}

#[test]
fn what_a_run_leaves_is_what_it_trained_whatever_began_it() {
    let model = tiny().display().to_string();
    let quantize = "{kind=\"quantize\",scheme=\"nf4\"}";
    let with_head = "{kind=\"quantize\",scheme=\"nf4\",skip_modules=[]}";
    for (surgery, folded) in [
        ("{kind=\"lora\",r=3,lora_alpha=6,init_lora_weights=\"pissa\"}", true),
        (
            "{kind=\"lora\",r=3,lora_alpha=5,use_rslora=true,init_lora_weights=\"olora\",rank_pattern={v_proj=2},alpha_pattern={q_proj=9}}",
            true,
        ),
        (
            "{kind=\"lora\",r=3,lora_alpha=6,init_lora_weights=\"pissa\",target_modules=[\"q_proj\",\"embed_tokens\"]}",
            true,
        ),
        (
            "{kind=\"lora\",r=3,lora_alpha=6,init_lora_weights=\"olora\",target_modules=[\"q_proj\"],modules_to_save=[\"lm_head\"]}",
            true,
        ),
        ("{kind=\"dora\",r=3,lora_alpha=6,init_lora_weights=\"pissa\"}", true),
        (
            "{kind=\"dora\",r=2,lora_alpha=6,init_lora_weights=\"pissa\",target_modules=[\"q_proj\"],magnitude_only_modules=[\"up_proj\"]}",
            true,
        ),
        ("H,{kind=\"lora\",r=3,lora_alpha=6,target_modules=[\"q_proj\"]}", false),
        ("Q,{kind=\"lora\",r=3,lora_alpha=6}", false),
        (
            "Q,{kind=\"lora\",r=3,lora_alpha=6,init_lora_weights=\"loftq\",rank_pattern={v_proj=2}}",
            false,
        ),
        ("Q,{kind=\"dora\",r=3,lora_alpha=6,init_lora_weights=\"loftq\"}", false),
        (
            "Q,{kind=\"dora\",r=2,lora_alpha=6,init_lora_weights=\"loftq\",target_modules=[\"q_proj\"],magnitude_only_modules=[\"up_proj\"]}",
            false,
        ),
    ] {
        let home = Home::new();
        let (run, answer) = train(
            &home,
            &format!("[{}]", surgery.replace('Q', quantize).replace('H', with_head)),
            &[],
        );
        answer.works();
        let trained = metrics(Path::new(&run))
            .iter()
            .filter_map(|entry| {
                entry
                    .as_object()?
                    .iter()
                    .find(|(key, _)| key.starts_with("eval") && key.ends_with("loss"))?
                    .1
                    .as_f64()
            })
            .next_back()
            .unwrap_or_else(|| panic!("{surgery}: no evaluation"));
        let with = ["--model", &model, "--adapter", &run];
        let near = |what: &str, found: f64| {
            let apart = (found - trained).abs();
            assert!(apart < 1e-4, "{surgery}: {what}: {found} while training said {trained}");
        };
        near("with the adapter", loss(&home, &with));
        let (merged, exported) = (home.at("merged"), home.at("exported"));
        finetune(&home, &[&["merge"][..], &with, &["--output", &merged]].concat()).works();
        finetune(
            &home,
            &[&["export", "--format", "hf"][..], &with, &["--output", &exported]].concat(),
        )
        .works();
        near("merged", loss(&home, &["--model", &merged]));
        let weights = |folder: &str| fs::read(Path::new(folder).join("model.safetensors")).expect("weights");
        assert!(
            weights(&merged) == weights(&exported),
            "{surgery}: `merge` and `export` differ"
        );
        if !folded {
            // What it was trained over is used unless somebody says otherwise, and both are said.
            let score = |more: &[&str]| {
                let texts = home.texts();
                let args = [
                    &["score", "--data", &texts, "--json", "--dtype", "f32"][..],
                    &with,
                    more,
                ]
                .concat();
                finetune(&home, &args).works().stderr
            };
            assert!(
                score(&[]).contains("was trained over nf4 weights in blocks of 64: the base is packed"),
                "{surgery}"
            );
            assert!(
                score(&["--against", "dense"]).contains("the dense weights are under it"),
                "{surgery}"
            );
            let dense = loss(&home, &[&with[..], &["--against", "dense"]].concat());
            assert!((dense - trained).abs() > 1e-4, "{surgery}: {dense}");
        }
    }
}

#[test]
fn an_option_that_names_no_module_is_refused_when_training() {
    for (options, option, name) in [
        ("rank_pattern={q_prj=2}", "rank_pattern", "q_prj"),
        ("alpha_pattern={\"^q_proj\"=2}", "alpha_pattern", "^q_proj"),
        (
            "rank_pattern={\"layers.9.self_attn.q_proj\"=2}",
            "rank_pattern",
            "layers.9.self_attn.q_proj",
        ),
        // There, but without an update.
        ("rank_pattern={up_proj=2}", "rank_pattern", "up_proj"),
        (
            "alpha_pattern={\"layers.0.self_attn.q_proj\"=8,\".*self_attn.q_proj\"=8,q_proj=2}",
            "alpha_pattern",
            "layers.0.self_attn.q_proj",
        ),
        ("exclude_modules=[\"up_proj\",\"up_prj\"]", "exclude_modules", "up_prj"),
        ("layers_to_transform=[0,9]", "layers_to_transform", "9"),
    ] {
        for kind in ["lora", "dora"] {
            let home = Home::new();
            let surgery =
                format!("[{{kind=\"{kind}\",r=4,lora_alpha=8,target_modules=[\"q_proj\",\"v_proj\"],{options}}}]");
            let (_, answer) = train(&home, &surgery, &[]);
            answer.fails_with(1, &[&format!("`{name}` in `{option}`"), "matches no module", "hint: "]);
        }
    }
    let home = Home::new();
    let (_, answer) = train(&home, "[{kind=\"lora\",r=4,lora_alpha=0}]", &[]);
    answer.fails_with(1, &["`lora_alpha`", "nothing could be learnt", "hint: "]);
    // Keys that share a module are right as long as each decides for one.
    let both = "rank_pattern={q_proj=2,\"layers.0.self_attn.q_proj\"=8}";
    let (run, answer) = train(&home, &format!("[{{kind=\"lora\",r=4,lora_alpha=8,{both}}}]"), &[]);
    answer.works();
    let file = Safetensors::open(&Path::new(&run).join("adapter_model.safetensors")).expect("an adapter");
    let rank = |layer: usize| {
        let name = format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_A.weight");
        file.shape(&name).expect("factors")[0]
    };
    assert_eq!((rank(0), rank(1)), (8, 2));
}

#[test]
fn a_key_of_somebody_s_adapter_that_matches_nothing_is_told_and_changes_nothing() {
    let home = Home::new();
    let plain = adapter(&home, "plain", &json!({}));
    let typo = adapter(
        &home,
        "typo",
        &json!({"rank_pattern": {"q_prj": 2}, "alpha_pattern": {"q_prj": 100}}),
    );
    assert!(!merge(&home, &plain, "one").works().stderr.contains("warning"));
    let told = merge(&home, &typo, "two").works().stderr;
    for part in [
        "`q_prj` in `rank_pattern`",
        "`q_prj` in `alpha_pattern`",
        "matches none of its modules",
    ] {
        assert!(told.contains(part), "`{part}` in: {told}");
    }
    let weights = |name: &str| fs::read(home.path().join(name).join("model.safetensors")).expect("weights");
    assert!(weights("one") == weights("two"));
    let shown = finetune(&home, &["inspect", &typo]).works().stdout;
    assert!(shown.contains("`q_prj` in `alpha_pattern`"), "{shown}");
}

#[test]
fn an_adapter_of_another_tool_version_or_file_is_called_what_it_is() {
    let home = Home::new();
    let mlx = home.at("mlx");
    home.file(
        "mlx/adapter_config.json",
        &json!({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 20.0}}).to_string(),
    );
    fs::copy(
        Path::new(&adapter(&home, "plain", &json!({}))).join("adapter_model.safetensors"),
        Path::new(&mlx).join("adapters.safetensors"),
    )
    .expect("a copy");
    let refused = [
        (mlx, &["MLX", "mlx_lm.fuse"][..]),
        (
            adapter(&home, "untyped", &json!({"peft_type": null})),
            &["`peft_type` is missing", "\"LORA\""],
        ),
        (
            adapter(&home, "rank", &json!({"r": 16})),
            &[
                Q.strip_prefix("base_model.model.").expect("a prefix"),
                "rank 4",
                "says 16",
            ],
        ),
        (
            adapter(&home, "on", &json!({"use_future": true, "future_scale": 2.0})),
            &["`use_future` = true"],
        ),
        (
            adapter(&home, "scaled", &json!({"future_scale": 2.0})),
            &["`future_scale` = 2.0"],
        ),
        (
            adapter(&home, "vera", &json!({"peft_type": "VERA"})),
            &["`peft_type` = \"VERA\""],
        ),
        (
            adapter(&home, "text", &json!({"r": "4"})),
            &["`r`", "a whole number", "\"4\""],
        ),
        (
            adapter(&home, "corda", &json!({"init_lora_weights": "corda"})),
            &["`init_lora_weights` = \"corda\""],
        ),
    ];
    for (folder, parts) in &refused {
        let parts: Vec<&str> = parts.iter().copied().chain(["hint: "]).collect();
        merge(&home, folder, "never").fails_with(1, &parts);
        finetune(&home, &["inspect", folder]).fails_with(1, &parts);
        assert!(!home.path().join("never").exists());
    }
    for (name, changes) in [
        (
            "off",
            json!({"quantum_config": null, "use_future": false, "future_list": []}),
        ),
        (
            "nulls",
            json!({"lora_dropout": null, "bias": null, "fan_in_fan_out": null, "init_lora_weights": null, "use_rslora": null, "rank_pattern": null, "alpha_pattern": null, "loftq_config": null}),
        ),
    ] {
        let folder = adapter(&home, name, &changes);
        merge(&home, &folder, &format!("m-{name}")).works();
    }
}

#[test]
fn an_update_is_rounded_once_and_one_that_overflows_is_an_error() {
    let home = Home::new();
    let export = |dtype: Kind, name: &str| {
        let folder = home.copy(&tiny(), name);
        let path = Path::new(&folder).join("model.safetensors");
        let file = Safetensors::open(&path).expect("weights");
        let all: Vec<(String, Tensor)> = file
            .names()
            .map(|name| (name.to_owned(), file.tensor(name).expect("a tensor").to_kind(dtype)))
            .collect();
        write_tensors(&path, all.iter().map(|(name, tensor)| (name.as_str(), tensor))).expect("written");
        folder
    };
    let plain = adapter(&home, "plain", &json!({}));
    let (bf16, merged) = (export(Kind::BFloat16, "bf16"), home.at("merged"));
    finetune(
        &home,
        &["merge", "--model", &bf16, "--adapter", &plain, "--output", &merged],
    )
    .works();
    let of = |folder: &str, name: &str| {
        let file = Safetensors::open(&Path::new(folder).join("model.safetensors")).expect("weights");
        file.tensor(name).expect("a tensor")
    };
    let factor = |end: &str| {
        let file = Safetensors::open(&Path::new(&plain).join("adapter_model.safetensors")).expect("an adapter");
        file.tensor(&format!("{Q}.{end}.weight"))
            .expect("a factor")
            .to_kind(Kind::Double)
    };
    let name = "model.layers.0.self_attn.q_proj.weight";
    let update = factor("lora_B").matmul(&factor("lora_A")) * 2.0;
    let base = of(&bf16, name).to_kind(Kind::Double);
    let once = (&base + &update).to_kind(Kind::Float).to_kind(Kind::BFloat16);
    let twice = (base + update.to_kind(Kind::BFloat16).to_kind(Kind::Double))
        .to_kind(Kind::Float)
        .to_kind(Kind::BFloat16);
    let differ = |wanted: &Tensor| of(&merged, name).ne_tensor(wanted).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(differ(&once), 0);
    assert!(differ(&twice) > 0, "the case tells the two apart");
    let huge = adapter(&home, "huge", &json!({"lora_alpha": 4e7}));
    let half = export(Kind::Half, "half");
    let never = home.at("never");
    finetune(
        &home,
        &["merge", "--model", &half, "--adapter", &huge, "--output", &never],
    )
    .fails_with(1, &["`model.layers.0.self_attn.", "are not finite", "65504", "hint: "]);
    assert!(!Path::new(&never).exists());
    finetune(
        &home,
        &[
            "merge",
            "--model",
            &half,
            "--adapter",
            &huge,
            "--output",
            &never,
            "--dtype",
            "bf16",
        ],
    )
    .works();
}
