//! Models in 4 bits, as bitsandbytes writes them, through the command.

use std::fs;
use std::path::Path;

use checkpoint::{ModelDir, Safetensors};
use serde_json::Value;
use tch::Kind;

use super::command::{Home, finetune, root};

#[test]
fn what_is_exported_from_4_bits_is_dense_and_says_so() {
    for name in ["llama-nf4", "llama-nf4-nested", "llama-fp4-bf16"] {
        let home = Home::new();
        let model = home.copy(&root().join("crates/golden/vectors/quant").join(name), name);
        let out = home.at("out");
        finetune(
            &home,
            &["export", "--model", &model, "--format", "hf", "--output", &out],
        )
        .works();
        let config = |folder: &str| -> Value {
            serde_json::from_slice(&fs::read(Path::new(folder).join("config.json")).unwrap()).unwrap()
        };
        assert!(config(&model).get("quantization_config").is_some(), "{name}");
        assert_eq!(config(&out).get("quantization_config"), None, "{name}");
        let there = ModelDir::open(Path::new(&model)).unwrap();
        let written = Safetensors::open(&Path::new(&out).join("model.safetensors")).unwrap();
        for tensor in there.names() {
            // Each in the dtype that it is quantised from.
            let found = written.tensor(tensor).unwrap();
            let kind = if name.ends_with("bf16") {
                Kind::BFloat16
            } else {
                Kind::Float
            };
            assert_eq!(found.kind(), kind, "{name} {tensor}");
            assert!(found == there.tensor_as(tensor, kind).unwrap(), "{name} {tensor}");
        }
    }
}
