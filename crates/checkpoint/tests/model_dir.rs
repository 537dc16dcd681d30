//! Directories are opened, checked and saved as Transformers does it.

use std::fs;
use std::path::Path;

use checkpoint::{BoxError, Error, Existing, ModelDir, SaveOptions, TensorInfo, TokenizerFiles, save_model};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

fn family(name: &str) -> std::path::PathBuf {
    golden::vectors_dir().join("families").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn save(model: &ModelDir, to: &Path, options: &SaveOptions<'_>) -> Result<(), Error> {
    let infos: Vec<TensorInfo> = model.names().iter().map(|name| model.info(name).unwrap()).collect();
    save_model(
        to,
        model.config(),
        &infos,
        |info| model.tensor(&info.name).map_err(BoxError::from),
        options,
    )
}

#[test]
fn every_family_opens_with_its_tensors() {
    let mut count = 0;
    for entry in fs::read_dir(golden::vectors_dir().join("families")).unwrap() {
        let folder = entry.unwrap().path();
        let model = ModelDir::open(&folder).unwrap();
        assert!(model.unexpected().is_empty(), "{:?}", model.unexpected());
        for file in fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.starts_with("model") || !name.ends_with(".safetensors") {
                continue;
            }
            let wanted = golden::Vectors::open_file(&path);
            for name in wanted.names() {
                assert!(
                    model.names().iter().any(|own| own == name),
                    "{name} of {}",
                    path.display()
                );
                assert!(model.tensor(name).unwrap().equal(&wanted.get(name)), "{name}");
                count += 1;
            }
        }
    }
    assert!(count > 300);
}

#[test]
fn a_saved_model_is_byte_for_byte_the_one_that_was_read() {
    for name in ["llama-tied", "gemma3", "qwen2-window", "llama-classifier-3"] {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("out");
        let model = ModelDir::open(&family(name)).unwrap();
        save(&model, &to, &SaveOptions::default()).unwrap();
        for file in ["model.safetensors", "config.json"] {
            assert!(
                fs::read(to.join(file)).unwrap() == fs::read(family(name).join(file)).unwrap(),
                "{name}/{file}"
            );
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside"
        );
    }
}

#[test]
fn a_sharded_model_is_saved_in_shards_and_read_back() {
    let model = ModelDir::open(&family("llama-sharded")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = SaveOptions {
        max_shard_size: 30_000,
        ..SaveOptions::default()
    };
    save(&model, folder.path(), &options).unwrap();
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&fs::read(path.join("model.safetensors.index.json")).unwrap()).unwrap()
    };
    let (ours, theirs) = (read(folder.path()), read(&family("llama-sharded")));
    assert_eq!(ours["metadata"], theirs["metadata"]);
    let shards = fs::read_dir(folder.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().unwrap() == "safetensors")
        .count();
    assert!(shards >= 5);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().unwrap() != "safetensors" || fs::metadata(&path).unwrap().len() < 33_000);
    }
    let again = ModelDir::open(folder.path()).unwrap();
    for name in model.names() {
        assert!(
            again.tensor(name).unwrap().equal(&model.tensor(name).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn a_dtype_is_converted_and_said_in_the_dialect_of_the_file() {
    let source = tempfile::tempdir().unwrap();
    copy(&family("qwen3-tied"), source.path());
    fs::copy(
        family("qwen3-tied").join("config.v4.json"),
        source.path().join("config.json"),
    )
    .unwrap();
    let model = ModelDir::open(source.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = SaveOptions {
        dtype: Some(Kind::BFloat16),
        ..SaveOptions::default()
    };
    save(&model, folder.path(), &options).unwrap();
    let again = ModelDir::open(folder.path()).unwrap();
    for name in model.names() {
        assert_eq!(again.info(name).unwrap().kind, Kind::BFloat16);
        assert!(
            again
                .tensor(name)
                .unwrap()
                .equal(&model.tensor(name).unwrap().to_kind(Kind::BFloat16)),
            "{name}"
        );
    }
    assert_eq!(again.config().raw()["torch_dtype"], json!("bfloat16"));
    assert!(again.config().raw().get("dtype").is_none());
}

#[test]
fn a_tied_output_layer_is_not_written() {
    let model = ModelDir::open(&family("llama-tied")).unwrap();
    let mut infos: Vec<TensorInfo> = model.names().iter().map(|name| model.info(name).unwrap()).collect();
    infos.push(TensorInfo {
        name: "lm_head.weight".into(),
        ..infos[0].clone()
    });
    let folder = tempfile::tempdir().unwrap();
    let get = |info: &TensorInfo| -> Result<Tensor, BoxError> {
        assert_ne!(info.name, "lm_head.weight");
        Ok(model.tensor(&info.name)?)
    };
    save_model(folder.path(), model.config(), &infos, get, &SaveOptions::default()).unwrap();
    assert!(!ModelDir::open(folder.path()).unwrap().contains("lm_head.weight"));
}

#[test]
fn a_model_is_replaced_only_when_asked() {
    let model = ModelDir::open(&family("llama-sharded")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("metrics.jsonl"), "{}").unwrap();
    save(
        &model,
        folder.path(),
        &SaveOptions {
            max_shard_size: 30_000,
            ..SaveOptions::default()
        },
    )
    .unwrap();
    let text = save(&model, folder.path(), &SaveOptions::default())
        .unwrap_err()
        .to_string();
    assert!(text.contains("a model is there already"), "{text}");
    save(
        &model,
        folder.path(),
        &SaveOptions {
            existing: Existing::Replace,
            ..SaveOptions::default()
        },
    )
    .unwrap();
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["config.json", "metrics.jsonl", "model.safetensors"],
        "old shards are gone, other files stay"
    );
    ModelDir::open(folder.path()).unwrap();
}

#[test]
fn tokenizer_files_and_templates_are_copied_through() {
    let source = tempfile::tempdir().unwrap();
    copy(&family("llama-tied"), source.path());
    fs::write(source.path().join("tokenizer.json"), "{}").unwrap();
    fs::write(
        source.path().join("tokenizer_config.json"),
        r#"{"chat_template": [{"name": "default", "template": "old"}, {"name": "rag", "template": "R"}]}"#,
    )
    .unwrap();
    fs::create_dir(source.path().join("additional_chat_templates")).unwrap();
    fs::write(source.path().join("additional_chat_templates/tools.jinja"), "T").unwrap();
    fs::write(
        source.path().join("generation_config.json"),
        r#"{"eos_token_id": [2, 7]}"#,
    )
    .unwrap();
    let model = ModelDir::open(source.path()).unwrap();
    assert_eq!(model.config().eos_token_ids, [2, 7]);
    fs::write(source.path().join("chat_template.jinja"), "new").unwrap();
    let model = ModelDir::open(source.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = SaveOptions {
        tokenizer: Some(model.tokenizer()),
        generation_config: model.generation_config(),
        ..SaveOptions::default()
    };
    save(&model, &folder.path().join("out"), &options).unwrap();
    let again = TokenizerFiles::in_folder(&folder.path().join("out")).unwrap();
    for (name, wanted) in [
        ("chat_template.jinja", "new"),
        ("additional_chat_templates/tools.jinja", "T"),
    ] {
        assert_eq!(again.read(name).unwrap().unwrap().as_ref(), wanted.as_bytes(), "{name}");
    }
    assert_eq!(
        ModelDir::open(&folder.path().join("out"))
            .unwrap()
            .config()
            .eos_token_ids,
        [2, 7]
    );
}

#[test]
fn broken_directories_are_refused() {
    let check = |name: &str, break_it: &dyn Fn(&Path), wanted: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        copy(&family(name), folder.path());
        break_it(folder.path());
        let text = ModelDir::open(folder.path()).unwrap_err().to_string();
        for part in wanted {
            assert!(text.contains(part), "wanted {part:?} in {text:?}");
        }
    };
    let edit = |key: &'static str, value: Value| {
        move |folder: &Path| {
            let path = folder.join("config.json");
            let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            config[key] = value.clone();
            fs::write(&path, config.to_string()).unwrap();
        }
    };
    check(
        "llama-sharded",
        &|folder| fs::remove_file(folder.join("model-00003-of-00005.safetensors")).unwrap(),
        &["1 of 5 shards", "`model-00003-of-00005.safetensors`"],
    );
    check(
        "llama-sharded",
        &|folder| {
            fs::write(
                folder.join("model.safetensors.index.json"),
                r#"{"weight_map": {"x": "../../etc/passwd"}}"#,
            )
            .unwrap();
        },
        &["weight_map", "in this folder"],
    );
    check(
        "llama-sharded",
        &|folder| {
            fs::write(
                folder.join("model.safetensors.index.json"),
                r#"{"weight_map": {"x": "model-00001-of-00005.safetensors"}}"#,
            )
            .unwrap();
        },
        &["`x` is missing", "model-00001"],
    );
    check(
        "llama-tied",
        &|folder| fs::remove_file(folder.join("model.safetensors")).unwrap(),
        &["`model.safetensors` is missing"],
    );
    check(
        "llama-tied",
        &|folder| fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap(),
        &["pytorch_model.bin", "save_pretrained"],
    );
    check(
        "llama-tied",
        &|folder| fs::remove_file(folder.join("config.json")).unwrap(),
        &["`config.json` is missing"],
    );
    check(
        "llama-tied",
        &edit("intermediate_size", json!(57)),
        &["gate_proj.weight", "wanted shape [57, 32]", "found [56, 32]"],
    );
    check(
        "llama-tied",
        &edit("tie_word_embeddings", json!(false)),
        &["`lm_head.weight` is missing"],
    );
    check(
        "llama-tied",
        &edit("num_hidden_layers", json!(3)),
        &["`model.layers.2.self_attn.q_proj.weight` is missing"],
    );
    let adapter = golden::vectors_dir().join("adapters/default");
    let text = ModelDir::open(&adapter).unwrap_err().to_string();
    assert!(text.contains("this is an adapter"), "{text}");
}

#[test]
fn a_model_that_does_not_fit_its_configuration_is_not_saved() {
    let model = ModelDir::open(&family("llama-tied")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let infos: Vec<TensorInfo> = model.names()[1..]
        .iter()
        .map(|name| model.info(name).unwrap())
        .collect();
    let result = save_model(
        &folder.path().join("out"),
        model.config(),
        &infos,
        |_| unreachable!("checked first"),
        &SaveOptions::default(),
    );
    assert!(matches!(result, Err(Error::NoTensor { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
