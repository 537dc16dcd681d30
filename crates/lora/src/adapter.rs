//! A model's adapter in PEFT's form: the tensors of `adapter_model.safetensors` and `adapter_config.json`.
//!
//! Adapters that were taken out of the base weight (PiSSA, OLoRA) are written as an ordinary update of the original
//! base, of twice the rank: `s (B A - B₀ A₀) = s [B, -B₀] [A; A₀]`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Parameters};

use crate::{Error, Init, LoraConfig, Result, TargetModules};

/// What PEFT puts before every path.
pub const PREFIX: &str = "base_model.model.";

/// Everything of `model` that an adapter file holds, f32, under PEFT's names, in the model's order.
pub fn adapter_tensors(model: &(impl Parameters + ?Sized)) -> Vec<(String, Tensor)> {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    let mut initial: BTreeMap<String, Tensor> = BTreeMap::new();
    model.visit(&ModulePath::root(), &mut |at, param| {
        let path = at.as_str();
        // Only what is written is fetched from a device.
        let value = || {
            let value = param.value().detach().to_device(tch::Device::Cpu);
            value.to_kind(Kind::Float).contiguous()
        };
        if let Some(factor) = path.strip_suffix(".initial") {
            initial.insert(format!("{PREFIX}{factor}.weight"), value());
        } else if param.is_trainable() {
            tensors.push((format!("{PREFIX}{}", path.replace(".modules_to_save.", ".")), value()));
        }
    });
    for (name, value) in &mut tensors {
        let Some(first) = initial.get(name) else { continue };
        *value = if name.ends_with("lora_A.weight") {
            Tensor::cat(&[&*value, first], 0)
        } else {
            Tensor::cat(&[&*value, &first.neg()], 1).contiguous()
        };
    }
    tensors
}

/// `adapter_config.json` as PEFT 0.21 writes it, keys sorted. `targets` are the wrapped modules.
pub fn to_peft_config<'a>(
    config: &LoraConfig,
    base_model: Option<&str>,
    task_type: &str,
    targets: impl IntoIterator<Item = &'a ModulePath>,
) -> Map<String, Value> {
    // A list of whole paths is exact whatever pattern chose them; plain suffixes are shorter and usual.
    let target_modules = match &config.target_modules {
        TargetModules::One(word) if word == "all-linear" => {
            let names: std::collections::BTreeSet<&str> = targets.into_iter().map(ModulePath::name).collect();
            json!(names)
        }
        other => json!(other),
    };
    // What is done to begin with must not be done again by whoever loads the adapter.
    let init = config.init_lora_weights;
    let converted = init.takes_from_base() || init == Init::Loftq;
    let rank = |r: i64| if converted { 2 * r } else { r };
    // Twice the rank at the same scale: alpha / r, or alpha / √r.
    let alpha = |alpha: f64| match (converted, config.use_rslora) {
        (false, _) => alpha,
        (true, false) => 2.0 * alpha,
        (true, true) => std::f64::consts::SQRT_2 * alpha,
    };
    let ranks: BTreeMap<&String, i64> = config.rank_pattern.iter().map(|(key, r)| (key, rank(*r))).collect();
    let alphas: BTreeMap<&String, Value> = config
        .alpha_pattern
        .iter()
        .map(|(key, a)| (key, number(alpha(*a))))
        .collect();
    let modules_to_save = if config.modules_to_save.is_empty() {
        Value::Null
    } else {
        json!(config.modules_to_save)
    };
    let layers_pattern = if config.layers_pattern.is_empty() {
        Value::Null
    } else {
        json!(config.layers_pattern)
    };
    let value = json!({
        "alora_invocation_tokens": null,
        "alpha_pattern": alphas,
        "arrow_config": null,
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": config.exclude_modules,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": if converted { json!(true) } else { json!(config.init_lora_weights) },
        "kasa_config": null,
        "layer_replication": null,
        "layers_pattern": layers_pattern,
        "layers_to_transform": config.layers_to_transform,
        "loftq_config": {},
        "lora_alpha": number(alpha(config.lora_alpha)),
        "lora_bias": false,
        "lora_dropout": config.lora_dropout,
        "lora_ga_config": null,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": modules_to_save,
        "monteclora_config": null,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": rank(config.r),
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": target_modules,
        "target_parameters": null,
        "task_type": task_type,
        "trainable_token_indices": null,
        "use_bdlora": null,
        "use_dora": false,
        "use_qalora": false,
        "use_rslora": config.use_rslora,
        "velora_config": null,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The options of an `adapter_config.json`; active options that are not supported are refused by name.
pub fn from_peft_config(file: &Map<String, Value>) -> Result<LoraConfig> {
    let refuse = |key: &str, hint| {
        let found = file.get(key).map_or_else(|| "missing".to_owned(), ToString::to_string);
        Err(Error::Unsupported {
            key: key.to_owned(),
            found,
            hint,
        })
    };
    if file.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return refuse("peft_type", "only \"LORA\" adapters are read here");
    }
    for (key, plain) in [
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(false)),
        ("lora_bias", json!(false)),
        ("use_dora", json!(false)),
    ] {
        if file.get(key).is_some_and(|value| !value.is_null() && *value != plain) {
            return refuse(
                key,
                "convert the adapter with the library that made it, or merge it there",
            );
        }
    }
    for key in [
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "layer_replication",
        "target_parameters",
        "trainable_token_indices",
        "use_bdlora",
        "use_qalora",
        "velora_config",
    ] {
        if file
            .get(key)
            .is_some_and(|value| !value.is_null() && *value != json!(false))
        {
            return refuse(
                key,
                "convert the adapter with the library that made it, or merge it there",
            );
        }
    }
    let kept = [
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
    ];
    let mut options: Map<String, Value> = kept
        .iter()
        .filter_map(|key| {
            file.get(*key)
                .filter(|value| !value.is_null())
                .map(|value| ((*key).to_owned(), value.clone()))
        })
        .collect();
    for key in ["layers_to_transform", "layers_pattern"] {
        if let Some(one) = options.get(key).filter(|value| !value.is_array()).cloned() {
            options.insert(key.to_owned(), json!([one]));
        }
    }
    let mut config: LoraConfig =
        serde_json::from_value(Value::Object(options)).map_err(|error| Error::Unsupported {
            key: "adapter_config.json".into(),
            found: error.to_string(),
            hint: "the file must be one that PEFT could write",
        })?;
    // How the factors began does not matter once they are read.
    config.init_lora_weights = Init::Default;
    Ok(config)
}

/// Whole numbers as integers, as PEFT writes them.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
