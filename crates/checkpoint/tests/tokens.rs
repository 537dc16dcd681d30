//! What configurations say of end tokens, positions and splits, and what Python writes into them.

use std::fs;
use std::path::Path;

use checkpoint::{BoxError, Error, ModelConfig, ModelDir, SaveOptions, TensorInfo, save_model};
use serde_json::{Value, json};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, Tokenizer};

/// The tiny Llama with `change` made to its configuration, and with this `generation_config.json`.
fn folder(change: impl FnOnce(&mut Value), generation: Option<&str>) -> tempfile::TempDir {
    let from = golden::vectors_dir().join("gguf/tiny");
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        fs::write(folder.path().join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    if let Some(text) = generation {
        fs::write(folder.path().join("generation_config.json"), text).unwrap();
    }
    folder
}

/// The end tokens that a model saved from `model` names: in its configuration, and in its generation configuration.
fn saved(model: &ModelDir) -> (Value, Value) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let infos: Vec<TensorInfo> = model.names().iter().map(|name| model.info(name).unwrap()).collect();
    let options = SaveOptions {
        generation_config: model.generation_config(),
        ..SaveOptions::default()
    };
    let tensor = |info: &TensorInfo| model.tensor(&info.name).map_err(BoxError::from);
    save_model(&out, model.config(), &infos, tensor, &options).unwrap();
    let ids = |name: &str| -> Value {
        let Ok(text) = fs::read(out.join(name)) else {
            return Value::Null;
        };
        serde_json::from_slice::<Value>(&text).unwrap()["eos_token_id"].clone()
    };
    (ids("config.json"), ids("generation_config.json"))
}

#[test]
fn what_ends_a_text_for_a_tokenizer_is_written_into_what_is_saved() {
    // What the configurations name, what the tokenizer ends a text with, and what is saved.
    let rows = [
        // Nothing new: nothing is touched.
        (json!(2), None, &[2][..], json!(2), Value::Null),
        (
            json!(2),
            Some("{\"eos_token_id\": [2, 0]}"),
            &[2],
            json!(2),
            json!([2, 0]),
        ),
        // The one that generation goes by lacks what the other names.
        (json!(0), Some("{\"eos_token_id\": 2}"), &[2], json!(0), json!([0, 2])),
        // A template's end of a turn.
        (json!(0), None, &[0, 2], json!([0, 2]), json!([0, 2])),
        (
            json!(0),
            Some("{\"eos_token_id\": 0}"),
            &[2],
            json!([0, 2]),
            json!([0, 2]),
        ),
        (Value::Null, None, &[2], json!(2), json!(2)),
    ];
    for (config, generation, tokenizer, wanted_config, wanted_generation) in rows {
        let folder = folder(|file| file["eos_token_id"] = config.clone(), generation);
        let model = ModelDir::open(folder.path()).unwrap();
        let tokenizer: Vec<i64> = tokenizer.iter().map(|id| i64::from(*id)).collect();
        let model = model.with_end_tokens(&tokenizer);
        assert_eq!(
            saved(&model),
            (wanted_config, wanted_generation),
            "{config} {generation:?}"
        );
        // Another template's tokens take the place of the first one's.
        let back = model.with_end_tokens(&[]);
        assert!(back.config().eos_token_ids.len() <= 2);
        assert_eq!(back.config().raw()["eos_token_id"], config);
    }
}

#[test]
fn a_wrong_end_token_is_refused_with_its_line() {
    let folder = folder(|_| (), Some("{\n\n\"eos_token_id\": \"x\"}"));
    let error = ModelDir::open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, Error::KeyAt { line: 3, key, .. } if key == "eos_token_id"),
        "{error}"
    );
}

#[test]
fn sizes_that_a_tool_wrote_as_floats_are_whole_numbers() {
    let floats = |file: &mut Value| {
        file["vocab_size"] = json!(311.0);
        file["hidden_size"] = json!(32.0);
    };
    let folder = folder(floats, None);
    let model = ModelDir::open(folder.path()).unwrap();
    assert_eq!((model.config().vocab_size, model.config().hidden_size), (311, 32));
    assert_eq!(model.config().raw()["vocab_size"].to_string(), "311");
}

#[test]
fn positions_are_those_after_the_stretch_of_rope() {
    let reach = |family: &str, change: &dyn Fn(&mut Value)| {
        let path = golden::vectors_dir().join(format!("families/{family}/config.json"));
        let mut config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        config["max_position_embeddings"] = json!(100);
        change(&mut config);
        let Value::Object(object) = config else {
            panic!("an object")
        };
        ModelConfig::from_object(Path::new("config.json"), object)
            .unwrap()
            .max_positions()
    };
    let rope = |rope: Value| move |config: &mut Value| config["rope_parameters"] = rope.clone();
    let plain = rope(json!({"rope_type": "default", "rope_theta": 1e4}));
    assert_eq!(reach("llama-tied", &plain), 100);
    // Qwen's way: the length before the stretch stands in both keys.
    let yarn = |original: i64| {
        let length = "original_max_position_embeddings";
        rope(json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, length: original}))
    };
    assert_eq!(reach("llama-tied", &yarn(100)), 400);
    // The other way: `max_position_embeddings` is the length after it.
    assert_eq!(reach("llama-tied", &yarn(25)), 100);
    let linear = rope(json!({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}));
    assert_eq!(reach("llama-tied", &linear), 200);
}

#[test]
fn a_gguf_file_that_names_no_split_is_split_as_llama_cpp_splits_it_and_told() {
    let bytes = fs::read(golden::vectors_dir().join("gguf/tiny.gguf")).unwrap();
    let key = b"tokenizer.ggml.pre";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    let mut unnamed = bytes.clone();
    unnamed[at + key.len() - 1] = b'x';
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("unnamed.gguf");
    fs::write(&path, unnamed).unwrap();
    let model = ModelDir::open(&path).unwrap();
    assert!(
        model.notes().len() == 1 && model.notes()[0].contains("`tokenizer.ggml.pre`"),
        "{:?}",
        model.notes()
    );
    let tokenizer = Tokenizer::from_bytes(model.tokenizer().tokenizer_json().unwrap()).unwrap();
    // By the four expressions of llama.cpp's default: punctuation, GPT-2's words, digits, digits by threes.
    for (text, wanted) in [
        ("Hello, you=me", &["Hello", ",", "Ġyou", "=", "me"][..]),
        (
            "in 12345 and 678901",
            &["in", "Ġ", "123", "45", "Ġand", "Ġ", "678", "901"],
        ),
        ("it's  5$", &["it", "'", "s", "Ġ", "Ġ", "5", "$"]),
    ] {
        let mut pieces = PreTokenizedString::from(text);
        tokenizer
            .get_pre_tokenizer()
            .unwrap()
            .pre_tokenize(&mut pieces)
            .unwrap();
        let found = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let found: Vec<&str> = found.into_iter().map(|(piece, ..)| piece).collect();
        assert_eq!(found, wanted, "{text}");
    }
    let named = ModelDir::open(&golden::vectors_dir().join("gguf/tiny.gguf")).unwrap();
    assert!(named.notes().is_empty());
}
