//! Model and adapter files that are broken, or that do not belong together.

use std::fs;
use std::path::Path;

use super::command::{Home, Refusal, files, finetune, nothing_lost, root, tiny};

/// Asks the model for a word and expects a refusal; the model's files stay as they are.
#[track_caller]
fn check(home: &Home, model: &str, says: &Refusal) {
    let before = files(home.path());
    finetune(
        home,
        &["generate", "--model", model, "--prompt", "a", "--max-new-tokens", "1"],
    )
    .refuses(says);
    nothing_lost(home.path(), &before);
}

fn spoil(path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Where `needle` first begins.
fn find(bytes: &[u8], needle: &str) -> usize {
    let mut windows = bytes.windows(needle.len());
    windows
        .position(|window| window == needle.as_bytes())
        .unwrap_or_else(|| panic!("`{needle}` is in the file"))
}

const DAMAGED: &str = "the file is damaged or its copy was cut short";

#[test]
fn a_truncated_safetensors_file_is_refused() {
    let whole = fs::read(tiny().join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let tensors = whole.len() - header;
    let cases = [
        (0, "8 bytes of header length", "a file of 0".to_owned()),
        (5, "8 bytes of header length", "a file of 5".to_owned()),
        (header - 40, "bytes of header", (header - 8).to_string()),
        (header, "bytes of tensors", "found 0".to_owned()),
        (
            whole.len() - 1000,
            "bytes of tensors",
            format!("found {}", tensors - 1000),
        ),
    ];
    let home = Home::new();
    let model = home.model();
    let path = format!("{model}/model.safetensors");
    for (keep, wanted, found) in cases {
        fs::write(&path, &whole[..keep]).unwrap();
        let says = Refusal {
            place: &format!("{path}`: broken safetensors file"),
            wanted,
            found: &found,
            hint: DAMAGED,
        };
        check(&home, &model, &says);
    }
}

#[test]
fn a_safetensors_header_that_lies_is_refused() {
    // What is written over what, and what the refusal says then: place, wanted, found.
    let cases: [(&str, &str, [&str; 3]); 5] = [
        (
            "\"shape\":[311,32]",
            "\"shape\":[999,32]",
            ["model.embed_tokens.weight", "127872 bytes", "data_offsets"],
        ),
        (
            "\"shape\":[311,32]",
            "\"shape\":[-11,32]",
            ["header", "a JSON object of tensors", "-11"],
        ),
        (
            "\"dtype\":\"F32\"",
            "\"dtype\":\"F33\"",
            ["tensor `", "a known dtype", "`F33`"],
        ),
        (
            "\"data_offsets\":[0,",
            "\"data_offsets\":[4,",
            ["tensor `", "wanted", "data_offsets [4,"],
        ),
        (
            "{\"__metadata__\"",
            "{,__metadata__\"",
            ["header", "a JSON object of tensors", "key must be a string"],
        ),
    ];
    let home = Home::new();
    let model = home.model();
    let path = format!("{model}/model.safetensors");
    for (honest, lie, [place, wanted, found]) in cases {
        spoil(&path, |bytes| {
            *bytes = fs::read(tiny().join("model.safetensors")).unwrap();
            let at = find(bytes, honest);
            bytes[at..at + lie.len()].copy_from_slice(lie.as_bytes());
        });
        let hint = DAMAGED;
        check(
            &home,
            &model,
            &Refusal {
                place,
                wanted,
                found,
                hint,
            },
        );
    }
    spoil(&path, |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    let says = Refusal {
        place: "model.safetensors`: broken safetensors file: header length",
        wanted: "bytes of header",
        found: &format!("found {}", u64::MAX),
        hint: DAMAGED,
    };
    check(&home, &model, &says);
}

#[test]
fn a_truncated_gguf_file_is_refused() {
    let home = Home::new();
    let whole = fs::read(root().join("crates/golden/vectors/gguf/tiny.gguf")).unwrap();
    let path = home.path().join("short.gguf");
    for (keep, found) in [
        (0, "the file's end after 0"),
        (3, "the file's end after 3"),
        (20, "the file's end after"),
        (200, "the file's end after"),
        (whole.len() / 2, "cut short?"),
        (whole.len() - 500, "a file of"),
    ] {
        fs::write(&path, &whole[..keep]).unwrap();
        let says = Refusal {
            place: "short.gguf`: broken GGUF file",
            wanted: "wanted ",
            found,
            hint: DAMAGED,
        };
        check(&home, &path.display().to_string(), &says);
    }
}

#[test]
fn a_gguf_header_that_lies_is_refused() {
    let home = Home::new();
    let whole = fs::read(root().join("crates/golden/vectors/gguf/tiny.gguf")).unwrap();
    let path = home.path().join("lying.gguf");
    let most = u64::MAX.to_le_bytes().to_vec();
    let key = find(&whole, "general.architecture");
    let tokens = find(&whole, "tokenizer.ggml.tokens") + "tokenizer.ggml.tokens".len();
    let name = "token_embd.weight";
    let embedding = find(&whole, name) + name.len();
    // Where, what is written there, and what the refusal says then: place, wanted, found.
    let cases: [(usize, Vec<u8>, [&str; 3]); 10] = [
        (0, b"GGML".to_vec(), ["start", "`GGUF`", "GGML"]),
        (4, 99_u32.to_le_bytes().to_vec(), ["version", "2 or 3", "99"]),
        (
            4,
            3_u32.to_be_bytes().to_vec(),
            ["version", "2 or 3", "a big-endian file"],
        ),
        // The numbers of tensors and of keys.
        (8, most.clone(), ["broken GGUF file", "wanted ", "found "]),
        (16, most.clone(), ["broken GGUF file", "wanted ", "found "]),
        // The length of a key, and the type and the length of a list.
        (
            key - 8,
            most.clone(),
            ["metadata key", "18446744073709551615 bytes", "the file's end"],
        ),
        (
            tokens,
            77_u32.to_le_bytes().to_vec(),
            ["tokenizer.ggml.tokens", "from 0 to 12", "77"],
        ),
        (
            tokens + 8,
            most.clone(),
            ["tokenizer.ggml.tokens", "elements", "18446744073709551615"],
        ),
        // A tensor's number of rows, and its place.
        (
            embedding + 12,
            most,
            [
                "token_embd.weight",
                "a size that memory can hold",
                "18446744073709551615",
            ],
        ),
        (
            embedding + 24,
            (1_u64 << 40).to_le_bytes().to_vec(),
            ["token_embd.weight", "at 1099511627776 of the data", "a file of"],
        ),
    ];
    for (at, lie, [place, wanted, found]) in cases {
        let mut bytes = whole.clone();
        bytes[at..at + lie.len()].copy_from_slice(&lie);
        fs::write(&path, &bytes).unwrap();
        let hint = DAMAGED;
        check(
            &home,
            &path.display().to_string(),
            &Refusal {
                place,
                wanted,
                found,
                hint,
            },
        );
    }
}

#[test]
fn a_shape_that_does_not_fit_the_configuration_is_refused() {
    let home = Home::new();
    let model = home.model();
    spoil(&format!("{model}/config.json"), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text
            .replace("\"intermediate_size\": 56", "\"intermediate_size\": 64")
            .into_bytes();
    });
    let says = Refusal {
        place: "`model.layers.0.mlp.gate_proj.weight`",
        wanted: "wanted shape [64, 32]",
        found: "found [56, 32]",
        hint: "belong to different models",
    };
    check(&home, &model, &says);
    // A verb that writes leaves nothing either.
    let out = home.at("out");
    finetune(
        &home,
        &["export", "--model", &model, "--format", "hf", "--output", &out],
    )
    .refuses(&says);
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_model_that_is_nowhere_says_where_it_was_looked_for() {
    let home = Home::new();
    let says = Refusal {
        place: "model `no-such-model`",
        wanted: "the local store",
        found: "was not found",
        hint: "finetune fetch",
    };
    check(&home, "no-such-model", &says);
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let says = Refusal {
        place: "empty`",
        wanted: "`config.json`",
        found: "is missing",
        hint: "a model is a folder with `config.json`",
    };
    check(&home, &empty.display().to_string(), &says);
}

#[test]
fn an_adapter_for_another_model_is_refused() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe, "--set", "train.max_steps=1"]).works();
    // Of the same sizes but for the vocabulary and the number of heads; with a tokenizer of its own vocabulary's size.
    let other = super::families::with_tokenizer(&home, "llama-untied");
    let (adapter, texts) = (home.at("run"), home.texts());
    let suite = home.file(
        "suite.toml",
        &format!("[[task]]\nname = \"a\"\nkind = \"perplexity\"\ndata = {texts:?}\n"),
    );
    let out = home.at("out");
    let before = files(home.path());
    for verb in [
        &["generate", "--prompt", "a"][..],
        &["chat"],
        &["score", "--data", &texts],
        &["evaluate", "--suite", &suite],
        &["merge", "--output", &out],
        &["export", "--format", "hf", "--output", &out],
    ] {
        let args = [verb, &["--model", &other, "--adapter", &adapter]].concat();
        finetune(&home, &args).refuses(&Refusal {
            place: &format!("adapter `{adapter}`"),
            wanted: "this model needs",
            found: "has shape",
            hint: "the adapter was made for another model",
        });
        assert!(!Path::new(&out).exists(), "{verb:?}");
    }
    nothing_lost(home.path(), &before);
}

#[test]
fn an_adapter_with_modules_that_the_model_does_not_have_is_refused() {
    let home = Home::new();
    let recipe = home.recipe("");
    // One layer more than the tiny model.
    let deeper = super::families::with_tokenizer(&home, "llama-sharded");
    let (setting, texts) = (format!("model.name_or_path={deeper}"), home.texts());
    let data = format!("data.train.0.path={texts}");
    finetune(
        &home,
        &[
            "train",
            &recipe,
            "--set",
            "train.max_steps=1",
            "--set",
            &setting,
            "--set",
            &data,
        ],
    )
    .works();
    let (model, adapter) = (tiny().display().to_string(), home.at("run"));
    finetune(
        &home,
        &["generate", "--model", &model, "--adapter", &adapter, "--prompt", "a"],
    )
    .refuses(&Refusal {
        place: &format!("adapter `{adapter}` on model `{model}`"),
        wanted: "that this model does not have",
        found: "the adapter names 7 modules",
        hint: "the adapter was made for another model",
    });
}

#[test]
fn what_is_no_adapter_is_refused() {
    let home = Home::new();
    let (model, empty) = (tiny().display().to_string(), home.at("empty"));
    std::fs::create_dir(&empty).unwrap();
    let says = Refusal {
        place: &empty,
        wanted: "wanted the folder of an adapter",
        found: "found an empty folder: `adapter_config.json` is missing",
        hint: "adapter",
    };
    for model in [&model, &empty] {
        finetune(
            &home,
            &["generate", "--model", model, "--adapter", &empty, "--prompt", "a"],
        )
        .refuses(&says);
    }
}

#[test]
fn a_truncated_adapter_is_refused() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe, "--set", "train.max_steps=1"]).works();
    let (model, adapter) = (tiny().display().to_string(), home.at("run"));
    spoil(&format!("{adapter}/adapter_model.safetensors"), |bytes| {
        bytes.truncate(3000);
    });
    finetune(
        &home,
        &["generate", "--model", &model, "--adapter", &adapter, "--prompt", "a"],
    )
    .refuses(&Refusal {
        place: "adapter_model.safetensors`: broken safetensors file",
        wanted: "bytes of",
        found: "found ",
        hint: DAMAGED,
    });
}

#[test]
fn a_model_that_is_there_is_not_replaced() {
    let home = Home::new();
    let model = home.model();
    let before = files(home.path());
    let source = tiny().display().to_string();
    for verb in [
        &["export", "--format", "hf", "--model", &source, "--output", &model][..],
        &["import", &source, "--output", &model],
    ] {
        finetune(&home, verb).refuses(&Refusal {
            place: &model,
            wanted: "choose another folder",
            found: "is there already",
            hint: "or remove it first",
        });
        nothing_lost(home.path(), &before);
    }
}
