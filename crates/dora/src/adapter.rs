//! DoRA in PEFT's form: LoRA's files with `use_dora`, and a `lora_magnitude_vector` a module.
//!
//! PEFT has no magnitudes without factors: those of magnitude-only modules are written as zeros, which compute the same.

use checkpoint::PeftConfig;
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
    let mut file = lora::to_peft_config(&config.lora, base_model, task_type, targets);
    file.insert("use_dora".to_owned(), json!(true));
    file
}

/// LoRA's options with all modules that have magnitudes as targets: whole paths where modules with magnitudes alone are
/// among them, which choose the same modules whatever options chose these.
pub fn targeted<'a>(config: &DoraConfig, targets: impl IntoIterator<Item = &'a ModulePath>) -> LoraConfig {
    let lora = config.lora.clone();
    if config.magnitude_only_modules.is_none() {
        return lora;
    }
    LoraConfig {
        target_modules: TargetModules::Many(targets.into_iter().map(ToString::to_string).collect()),
        exclude_modules: None,
        layers_to_transform: None,
        layers_pattern: Vec::new(),
        ..lora
    }
}

/// The options of an `adapter_config.json`, and whether it decomposes; options that are on and not supported are refused
/// by name.
pub fn from_peft_config(file: &Map<String, Value>) -> Result<(LoraConfig, bool)> {
    let file = PeftConfig::from_object("adapter_config.json".as_ref(), file.clone())?;
    Ok((lora::of_peft(&file)?, file.use_dora))
}

/// The factors of zeros that stand in PEFT's file for a magnitude-only module of `[out, in]`.
pub fn still_factors(at: &ModulePath, rank: i64, [out, input]: [i64; 2]) -> [(String, Tensor); 2] {
    let zeros = |shape: [i64; 2]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    [
        (format!("{PREFIX}{at}.lora_A.weight"), zeros([rank, input])),
        (format!("{PREFIX}{at}.lora_B.weight"), zeros([out, rank])),
    ]
}
