//! Weight files that public bug reports tell of: codes in the place of numbers, two sets of files, tensors that nobody knows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use checkpoint::{Safetensors, write_tensors};
use serde_json::json;
use tch::{Kind, Tensor};

use super::command::{Home, finetune, perplexity, tiny};

const Q: &str = "model.layers.0.self_attn.q_proj";

fn tensors(folder: &str) -> BTreeMap<String, Tensor> {
    let file = Safetensors::open(&Path::new(folder).join("model.safetensors")).expect("weights");
    file.names()
        .map(|name| (name.to_owned(), file.tensor(name).expect("a tensor").copy()))
        .collect()
}

fn write(folder: &str, file: &str, tensors: &BTreeMap<String, Tensor>) {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_tensors(&Path::new(folder).join(file), named).expect("written");
}

/// A safetensors file with one tensor's bytes declared as `dtype`.
fn declare(folder: &str, name: &str, dtype: &str) {
    let path = Path::new(folder).join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    header[name]["dtype"] = json!(dtype);
    let text = header.to_string();
    let whole = [
        &(text.len() as u64).to_le_bytes(),
        text.as_bytes(),
        &bytes[8 + length..],
    ]
    .concat();
    fs::write(path, whole).expect("written");
}

#[test]
fn codes_of_8_bits_are_dequantised_by_their_scales_or_refused() {
    let home = Home::new();
    let name = format!("{Q}.weight");
    let whole = tensors(&home.copy(&tiny(), "whole"));
    let weight = &whole[&name];
    let largest = weight.abs().amax([1], true);
    let codes = (weight / &largest * 127.0).round();
    // What the codes stand for, in a file of plain numbers: the same model to the last bit but one.
    let int8 = home.copy(&tiny(), "int8");
    let mut packed = tensors(&int8);
    packed.insert(name.clone(), codes.to_kind(Kind::Int8));
    packed.insert(format!("{Q}.SCB"), largest.view([-1]));
    write(&int8, "model.safetensors", &packed);
    let dense = home.copy(&tiny(), "dense");
    let mut plain = tensors(&dense);
    plain.insert(name.clone(), &codes * &largest / 127.0);
    write(&dense, "model.safetensors", &plain);
    let (found, wanted) = (
        perplexity(&home, &["--model", &int8]),
        perplexity(&home, &["--model", &dense]),
    );
    assert!((found / wanted - 1.0).abs() < 1e-6, "{found} {wanted}");
    // The same codes without their scales.
    packed.remove(&format!("{Q}.SCB"));
    let bare = home.copy(&tiny(), "bare");
    write(&bare, "model.safetensors", &packed);
    let out = home.at("out");
    for args in [
        &["generate", "--prompt", "a", "--model", &bare][..],
        &["inspect", &bare],
        &["export", "--model", &bare, "--format", "hf", "--output", &out],
    ] {
        finetune(&home, args).fails_with(1, &[&name, "whole numbers", "without scales", "hint: "]);
    }
    // fp8: the byte 0x38 is 1 in E4M3, 0xb8 is -1.
    let bytes = weight.sign().eq(-1.0).to_kind(Kind::Uint8) * 128 + 0x38;
    let fp8 = home.copy(&tiny(), "fp8");
    let mut packed = tensors(&fp8);
    packed.insert(name.clone(), bytes.to_kind(Kind::Uint8));
    packed.insert(format!("{name}_scale"), largest.shallow_clone());
    write(&fp8, "model.safetensors", &packed);
    declare(&fp8, &name, "F8_E4M3");
    let signs = weight.sign().where_self(&weight.ne(0.0), &weight.ones_like());
    plain.insert(name.clone(), signs * &largest);
    write(&dense, "model.safetensors", &plain);
    let (found, wanted) = (
        perplexity(&home, &["--model", &fp8]),
        perplexity(&home, &["--model", &dense]),
    );
    assert!((found / wanted - 1.0).abs() < 1e-6, "{found} {wanted}");
    packed.remove(&format!("{name}_scale"));
    write(&fp8, "model.safetensors", &packed);
    declare(&fp8, &name, "F8_E4M3");
    finetune(&home, &["generate", "--prompt", "a", "--model", &fp8]).fails_with(1, &[&name, "F8_E4M3", "hint: "]);
}

#[test]
fn a_buffer_passes_in_silence_and_a_tensor_that_nothing_uses_is_told() {
    let home = Home::new();
    let model = home.copy(&tiny(), "model");
    let mut all = tensors(&model);
    all.insert(
        "model.embeddings.position_ids".into(),
        Tensor::from_slice(&[0i64, 1, 2]),
    );
    all.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        Tensor::from_slice(&[1.0f32]),
    );
    all.insert(
        "model.norm.weight".into(),
        all["model.norm.weight"].to_kind(Kind::Double),
    );
    write(&model, "model.safetensors", &all);
    let texts = home.texts();
    let score = |model: &str| finetune(&home, &["score", "--data", &texts, "--model", model, "--dtype", "f32"]).works();
    let plain = tiny().display().to_string();
    assert_eq!(score(&model).stdout, score(&plain).stdout);
    assert!(!score(&model).stderr.contains("warning"), "{}", score(&model).stderr);
    all.insert(format!("{Q}.bias"), Tensor::from_slice(&[1.0f32; 32]));
    write(&model, "model.safetensors", &all);
    let told = score(&model).stderr;
    assert!(
        told.contains(&format!("warning: model `{model}`: the files hold tensor `{Q}.bias`")),
        "{told}"
    );
}

/// The tiny model in two shards with an index.
fn sharded(home: &Home, name: &str) -> String {
    let folder = home.copy(&tiny(), name);
    let all = tensors(&folder);
    let (first, second): (BTreeMap<_, _>, BTreeMap<_, _>) = all
        .into_iter()
        .partition(|(name, _)| name.contains("layers.0.") || name.contains("embed"));
    let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    for (file, shard) in files.iter().zip([&first, &second]) {
        write(&folder, file, shard);
        map.extend(shard.keys().map(|name| (name.clone(), json!(file))));
    }
    fs::remove_file(Path::new(&folder).join("model.safetensors")).expect("removed");
    home.file(
        &format!("{name}/model.safetensors.index.json"),
        &json!({"metadata": {}, "weight_map": map}).to_string(),
    );
    folder
}

#[test]
fn files_that_disagree_are_named_and_shards_without_an_index_are_read_whole_or_not_at_all() {
    let home = Home::new();
    let texts = home.texts();
    let score = |model: &str| finetune(&home, &["score", "--data", &texts, "--model", model, "--dtype", "f32"]);
    let plain = score(&tiny().display().to_string()).works();
    let clean = sharded(&home, "clean");
    let answer = score(&clean).works();
    assert_eq!(answer.stdout, plain.stdout);
    assert!(!answer.stderr.contains("warning"), "{}", answer.stderr);

    let stale = sharded(&home, "stale");
    fs::copy(
        tiny().join("model.safetensors"),
        Path::new(&stale).join("model.safetensors"),
    )
    .expect("a copy");
    let told = score(&stale).works().stderr;
    assert!(
        told.contains("two sets of weights") && told.contains("`model.safetensors`, which is taken"),
        "{told}"
    );

    let extra = sharded(&home, "extra");
    write(
        &extra,
        "model-00003-of-00003.safetensors",
        &BTreeMap::from([("x".to_owned(), Tensor::from_slice(&[1.0f32]))]),
    );
    let told = score(&extra).works();
    assert!(
        told.stderr.contains("`model-00003-of-00003.safetensors` is not named"),
        "{}",
        told.stderr
    );
    assert_eq!(told.stdout, plain.stdout);

    let bare = sharded(&home, "bare");
    fs::remove_file(Path::new(&bare).join("model.safetensors.index.json")).expect("removed");
    let told = score(&bare).works();
    assert!(told.stderr.contains("all 2 shards"), "{}", told.stderr);
    assert_eq!(told.stdout, plain.stdout);
    fs::remove_file(Path::new(&bare).join("model-00002-of-00002.safetensors")).expect("removed");
    score(&bare).fails_with(1, &["1 of 2 shards (`model-00002-of-00002.safetensors`)", "hint: "]);

    // The index decides where it maps a tensor to another file than the one that holds an older copy.
    let overlay = sharded(&home, "overlay");
    let name = "model.norm.weight";
    let zeros = BTreeMap::from([(name.to_owned(), Tensor::zeros([32], (Kind::Float, tch::Device::Cpu)))]);
    write(&overlay, "overlay.safetensors", &zeros);
    let path = Path::new(&overlay).join("model.safetensors.index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("an index")).expect("JSON");
    index["weight_map"][name] = json!("overlay.safetensors");
    fs::write(&path, index.to_string()).expect("written");
    let even = perplexity(&home, &["--model", &overlay]);
    // Hidden states of zeros give every token of the vocabulary the same probability.
    assert!((even / 311.0 - 1.0).abs() < 1e-3, "{even}");
}
