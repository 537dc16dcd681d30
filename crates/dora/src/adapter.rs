//! DoRA in PEFT's form: LoRA's files with `use_dora`, and a `lora_magnitude_vector` a module.
//!
//! PEFT has no magnitudes without factors: those of magnitude-only modules are written as zeros, which compute the same.

use lora::{LoraConfig, PREFIX, Result, TargetModules};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use tensor_core::ModulePath;

use crate::DoraConfig;

/// `adapter_config.json` as PEFT writes it. `targets` are all modules with magnitudes.
pub fn to_peft_config<'a>(
    config: &DoraConfig,
    base_model: Option<&str>,
    task_type: &str,
    targets: impl IntoIterator<Item = &'a ModulePath>,
) -> Map<String, Value> {
    let targets: Vec<&ModulePath> = targets.into_iter().collect();
    let mut lora = config.lora.clone();
    if config.magnitude_only_modules.is_some() {
        // Whole paths choose the same modules whatever options chose these.
        let paths = targets.iter().map(ToString::to_string).collect();
        lora = LoraConfig {
            target_modules: TargetModules::Many(paths),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            ..lora
        };
    }
    let mut file = lora::to_peft_config(&lora, base_model, task_type, targets);
    file.insert("use_dora".to_owned(), json!(true));
    file
}

/// The options of an `adapter_config.json`, and whether it decomposes; active options that are not supported are refused
/// by name.
pub fn from_peft_config(file: &Map<String, Value>) -> Result<(LoraConfig, bool)> {
    let mut rest = file.clone();
    let use_dora = rest.get("use_dora").and_then(Value::as_bool) == Some(true);
    if use_dora {
        rest.remove("use_dora");
    }
    Ok((lora::from_peft_config(&rest)?, use_dora))
}

/// The factors of zeros that stand in PEFT's file for a magnitude-only module of `[out, in]`.
pub fn still_factors(at: &ModulePath, rank: i64, [out, input]: [i64; 2]) -> [(String, Tensor); 2] {
    let zeros = |shape: [i64; 2]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    [
        (format!("{PREFIX}{at}.lora_A.weight"), zeros([rank, input])),
        (format!("{PREFIX}{at}.lora_B.weight"), zeros([out, rank])),
    ]
}
