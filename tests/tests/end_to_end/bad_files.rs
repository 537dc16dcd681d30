//! Model and adapter files that are broken, or that do not belong together.

use std::fs;
use std::path::Path;

use super::command::{Home, finetune, root, tiny};

/// Asks the model for a word and expects a failure that says all of this.
#[track_caller]
fn check(home: &Home, model: &str, parts: &[&str]) {
    finetune(
        home,
        &["generate", "--model", model, "--prompt", "a", "--max-new-tokens", "1"],
    )
    .fails_with(1, parts);
}

fn spoil(path: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, change(bytes)).unwrap();
}

#[test]
fn a_truncated_safetensors_file_is_refused() {
    let home = Home::new();
    let model = home.model();
    spoil(&format!("{model}/model.safetensors"), |mut bytes| {
        bytes.truncate(bytes.len() - 1000);
        bytes
    });
    check(&home, &model, &["model.safetensors", "safetensors", "found"]);
}

#[test]
fn a_safetensors_header_that_lies_is_refused() {
    let home = Home::new();
    let model = home.model();
    spoil(&format!("{model}/model.safetensors"), |mut bytes| {
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    });
    check(&home, &model, &["model.safetensors", "header"]);
}

#[test]
fn a_truncated_or_lying_gguf_file_is_refused() {
    let home = Home::new();
    let whole = fs::read(root().join("crates/golden/vectors/gguf/tiny.gguf")).unwrap();
    let path = home.path().join("short.gguf");
    for keep in [3, 20, 200, whole.len() - 500] {
        fs::write(&path, &whole[..keep]).unwrap();
        check(&home, &path.display().to_string(), &["short.gguf", "GGUF"]);
    }
    let mut lying = whole;
    // The number of tensors.
    lying[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &lying).unwrap();
    check(&home, &path.display().to_string(), &["short.gguf", "GGUF"]);
}

#[test]
fn a_shape_that_does_not_fit_the_configuration_is_refused() {
    let home = Home::new();
    let model = home.model();
    spoil(&format!("{model}/config.json"), |bytes| {
        String::from_utf8(bytes)
            .unwrap()
            .replace("\"intermediate_size\": 56", "\"intermediate_size\": 64")
            .into_bytes()
    });
    check(&home, &model, &["gate_proj", "[64, 32]", "[56, 32]"]);
}

#[test]
fn a_model_that_is_nowhere_says_where_it_was_looked_for() {
    let home = Home::new();
    check(&home, "no-such-model", &["`no-such-model`", "local store"]);
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    check(&home, &empty.display().to_string(), &["`config.json` is missing"]);
}

#[test]
fn an_adapter_for_another_model_is_refused() {
    let home = Home::new();
    let recipe = home.recipe("max_grad_norm = 0.5\n");
    finetune(&home, &["train", &recipe, "--set", "train.max_steps=1"]).works();
    let other = root().join("crates/golden/vectors/families/llama-biases");
    let family = home.path().join("other");
    fs::create_dir(&family).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(other.join(name), family.join(name)).unwrap();
    }
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(tiny().join(name), family.join(name)).unwrap();
    }
    let (family, adapter) = (family.display().to_string(), home.at("run"));
    let args = ["generate", "--model", &family, "--adapter", &adapter, "--prompt", "a"];
    finetune(&home, &args).fails_with(1, &["adapter", "made for another model"]);
    let merged = home.at("merged");
    let args = ["merge", "--model", &family, "--adapter", &adapter, "--output", &merged];
    finetune(&home, &args).fails_with(1, &["adapter", "made for another model"]);
    assert!(!Path::new(&merged).join("config.json").exists());
}

#[test]
fn what_is_no_adapter_is_refused() {
    let home = Home::new();
    let (model, empty) = (tiny().display().to_string(), home.at(""));
    let args = ["generate", "--model", &model, "--adapter", &empty, "--prompt", "a"];
    finetune(&home, &args).fails_with(1, &["adapter_config.json"]);
    finetune(
        &home,
        &["generate", "--model", &empty, "--adapter", &empty, "--prompt", "a"],
    )
    .fails_with(1, &["adapter_config.json"]);
}

#[test]
fn a_model_that_is_there_is_not_replaced() {
    let home = Home::new();
    let model = home.model();
    let before = fs::read(format!("{model}/model.safetensors")).unwrap();
    let source = tiny().display().to_string();
    finetune(
        &home,
        &["export", "--model", &source, "--format", "hf", "--output", &model],
    )
    .fails_with(1, &["already", "model"]);
    assert_eq!(fs::read(format!("{model}/model.safetensors")).unwrap(), before);
}
