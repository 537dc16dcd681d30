//! Adapters of PEFT are read, and written back byte for byte.

use std::fs;
use std::path::Path;

use checkpoint::{InitLoraWeights, NamesOrPattern, PeftAdapter, PeftConfig, PeftPart, PeftTensor};
use serde_json::{Value, json};
use tensor_core::ModulePath;

fn adapters() -> Vec<std::path::PathBuf> {
    let entries = ["adapters", "dora"].map(|group| fs::read_dir(golden::vectors_dir().join(group)).unwrap());
    let mut all: Vec<_> = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("adapter_config.json").is_file())
        .collect();
    all.sort();
    assert!(all.len() >= 8);
    all
}

fn resave(adapter: &PeftAdapter, to: &Path) {
    let tensors: Vec<PeftTensor> = adapter
        .tensors()
        .map(|(module, part)| PeftTensor {
            module: module.clone(),
            part: part.clone(),
            value: adapter.tensor(module, part).unwrap().unwrap(),
        })
        .collect();
    PeftAdapter::save(to, adapter.config(), &tensors).unwrap();
}

#[test]
fn an_adapter_is_saved_byte_for_byte_as_peft_saved_it() {
    for from in adapters() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("adapter");
        resave(&PeftAdapter::open(&from).unwrap(), &to);
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            let (ours, theirs) = (fs::read(to.join(name)).unwrap(), fs::read(from.join(name)).unwrap());
            assert!(
                ours == theirs,
                "{}/{name}:\n{}",
                from.display(),
                String::from_utf8_lossy(&ours)
            );
        }
        // Saving again over it, and into a folder with other files, works too.
        fs::write(to.join("metrics.jsonl"), "").unwrap();
        resave(&PeftAdapter::open(&to).unwrap(), &to);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 3);
    }
}

#[test]
fn our_own_configuration_has_peft_s_keys_and_defaults() {
    let text = fs::read_to_string(golden::vectors_dir().join("adapters/default/adapter_config.json")).unwrap();
    let theirs: Value = serde_json::from_str(&text).unwrap();
    let mut config = PeftConfig::default();
    config.r = theirs["r"].as_i64().unwrap();
    config.lora_alpha = theirs["lora_alpha"].as_f64().unwrap();
    config.lora_dropout = theirs["lora_dropout"].as_f64().unwrap();
    config.target_modules = serde_json::from_value(theirs["target_modules"].clone()).unwrap();
    assert_eq!(config.to_json(), text);
}

#[test]
fn every_kind_of_tensor_is_found_by_its_module() {
    let open = |name: &str| PeftAdapter::open(&golden::vectors_dir().join("adapters").join(name)).unwrap();
    let plain = open("default");
    let q = ModulePath::from("model.layers.0.self_attn.q_proj");
    assert!(plain.modules().any(|module| *module == q));
    let (a, b) = (
        plain.shape(&q, &PeftPart::A).unwrap(),
        plain.shape(&q, &PeftPart::B).unwrap(),
    );
    assert_eq!((a, b), ([4, 32].as_slice(), [32, 4].as_slice()));
    let wanted = golden::Vectors::open_file(&golden::vectors_dir().join("adapters/default/adapter_model.safetensors"))
        .get("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    assert!(plain.tensor(&q, &PeftPart::A).unwrap().unwrap().equal(&wanted));
    assert!(plain.tensor(&q, &PeftPart::Magnitude).unwrap().is_none());

    let embedding = open("embedding-head");
    let table = ModulePath::from("model.embed_tokens");
    assert_eq!(embedding.shape(&table, &PeftPart::EmbeddingA).unwrap(), [3, 97]);
    assert_eq!(
        embedding.shape(&table, &PeftPart::BaseLayer("weight".into())).unwrap(),
        [97, 32]
    );
    assert!(embedding.modules().any(|module| *module == table));

    let saved = open("modules-to-save");
    assert!(
        saved
            .shape(&"lm_head".into(), &PeftPart::Saved("weight".into()))
            .is_some()
    );
    assert!(!saved.modules().any(|module| module.as_str() == "lm_head"));
    assert!(matches!(
        open("regex").config().target_modules,
        Some(NamesOrPattern::Pattern(_))
    ));
    assert_eq!(plain.config().init_lora_weights, InitLoraWeights::Default(true));
    assert!(open("layers").config().layers_to_transform().is_some());
}

/// An adapter with one key of its configuration changed.
fn with(key: &str, value: Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = golden::vectors_dir().join("adapters/default");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
    folder
}

#[test]
fn keys_of_another_version_pass_while_they_are_off_and_are_refused_by_name_where_they_are_on() {
    for off in [json!(null), json!(false), json!({}), json!([])] {
        let adapter = PeftAdapter::open(with("shiny_new_option", off.clone()).path()).unwrap();
        assert_eq!(adapter.config().other["shiny_new_option"], off);
        assert!(adapter.config().to_json().contains("\"shiny_new_option\""));
    }
    for on in [json!({"on": true}), json!(true), json!(2.0), json!("some")] {
        let text = PeftAdapter::open(with("shiny_new_option", on.clone()).path())
            .unwrap_err()
            .to_string();
        assert!(text.contains(&format!("`shiny_new_option` = {on}")), "{text}");
    }
}

#[test]
fn nulls_where_peft_has_values_are_what_peft_reads() {
    for key in [
        "lora_dropout",
        "bias",
        "fan_in_fan_out",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "init_lora_weights",
        "loftq_config",
    ] {
        let adapter = PeftAdapter::open(with(key, json!(null)).path()).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(adapter.config().r, 4);
    }
    for key in ["r", "lora_alpha"] {
        let text = PeftAdapter::open(with(key, json!(null)).path())
            .unwrap_err()
            .to_string();
        assert!(text.contains(&format!("`{key}`")) && text.contains("null"), "{text}");
    }
}

#[test]
fn an_adapter_of_another_tool_is_called_what_it_is() {
    let mlx = tempfile::tempdir().unwrap();
    let config = json!({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 20.0}});
    fs::write(mlx.path().join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(mlx.path().join("adapters.safetensors"), "").unwrap();
    let text = PeftAdapter::open(mlx.path()).unwrap_err().to_string();
    assert!(text.contains("MLX") && text.contains("mlx_lm.fuse"), "{text}");
    let untyped = with("peft_type", json!(null));
    let path = untyped.path().join("adapter_config.json");
    let mut config: serde_json::Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config.remove("peft_type");
    fs::write(&path, json!(config).to_string()).unwrap();
    let text = PeftAdapter::open(untyped.path()).unwrap_err().to_string();
    assert!(
        text.contains("`peft_type` is missing") && text.contains("\"LORA\""),
        "{text}"
    );
}

#[test]
fn initialisations_that_changed_the_base_by_what_the_file_does_not_hold_are_refused_by_name() {
    for name in ["corda", "loftq", "something_new"] {
        let text = PeftAdapter::open(with("init_lora_weights", json!(name)).path())
            .unwrap_err()
            .to_string();
        assert!(text.contains(&format!("`init_lora_weights` = \"{name}\"")), "{text}");
    }
    for name in [
        "gaussian",
        "eva",
        "orthogonal",
        "pissa",
        "pissa_niter_4",
        "olora",
        "OLoRA",
        "mica",
    ] {
        PeftAdapter::open(with("init_lora_weights", json!(name)).path())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn options_that_are_on_and_not_done_are_refused_by_name() {
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("monteclora_config", json!({"on": 1})),
        ("use_bdlora", json!({"on": 1})),
        ("ensure_weight_tying", json!(true)),
        ("use_qalora", json!(true)),
        ("layer_replication", json!([[0, 1], [0, 2]])),
        ("target_parameters", json!(["mlp.experts.down_proj"])),
        ("trainable_token_indices", json!([1, 2])),
        ("alora_invocation_tokens", json!([5])),
    ] {
        let text = PeftAdapter::open(with(key, value.clone()).path())
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(&format!("`{key}` = {value}")) && text.contains("adapter_config.json"),
            "{text}"
        );
    }
    let text = PeftAdapter::open(with("r", json!("eight")).path())
        .unwrap_err()
        .to_string();
    assert!(text.contains("adapter_config.json") && text.contains("eight"), "{text}");
}

#[test]
fn folders_that_are_no_adapters_are_refused() {
    let folder = with("revision", json!(null));
    let weights = folder.path().join("adapter_model.safetensors");
    fs::rename(&weights, folder.path().join("adapter_model.bin")).unwrap();
    let text = PeftAdapter::open(folder.path()).unwrap_err().to_string();
    assert!(
        text.contains("adapter_model.bin") && text.contains("safe_serialization=True"),
        "{text}"
    );

    let outer = tempfile::tempdir().unwrap();
    fs::create_dir(outer.path().join("mine")).unwrap();
    fs::write(outer.path().join("mine/adapter_config.json"), "{}").unwrap();
    let text = PeftAdapter::open(outer.path()).unwrap_err().to_string();
    assert!(
        text.contains("`adapter_config.json` is missing") && text.contains("mine`"),
        "{text}"
    );
}

#[test]
fn factors_that_do_not_fit_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = PeftAdapter::open(&golden::vectors_dir().join("adapters/default")).unwrap();
    let module = ModulePath::from("model.layers.0.self_attn.q_proj");
    let tensor = |part, shape: [i64; 2]| PeftTensor {
        module: module.clone(),
        part,
        value: tch::Tensor::zeros(shape, (tch::Kind::Float, tch::Device::Cpu)),
    };
    PeftAdapter::save(
        folder.path(),
        adapter.config(),
        &[tensor(PeftPart::A, [4, 32]), tensor(PeftPart::B, [32, 5])],
    )
    .unwrap();
    let text = PeftAdapter::open(folder.path()).unwrap_err().to_string();
    assert!(
        text.contains("q_proj.lora_B.weight") && text.contains("[32, 4]") && text.contains("[32, 5]"),
        "{text}"
    );
    PeftAdapter::save(folder.path(), adapter.config(), &[tensor(PeftPart::A, [4, 32])]).unwrap();
    let text = PeftAdapter::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("q_proj.lora_") && text.contains("is missing"), "{text}");
}
