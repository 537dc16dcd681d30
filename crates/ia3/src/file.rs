//! A model's adapter in PEFT's form: the tensors of `adapter_model.safetensors` and `adapter_config.json`.

use std::collections::BTreeSet;

use checkpoint::{PeftAdapter, PeftPart};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use tensor_core::{ModulePath, Parameters};

use crate::place::HEADS;
use crate::{Error, Ia3Config, Result, Side, TargetModules};

/// What PEFT puts before every path.
const PREFIX: &str = "base_model.model.";

/// Keys of PEFT's file that say nothing of what the adapter computes.
const SILENT: [&str; 9] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_ia3_weights",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
];

/// Everything of `model` that trains, f32, under PEFT's names, in the model's order: the vectors, and a new head.
pub fn adapter_tensors(model: &(impl Parameters + ?Sized)) -> Vec<(String, Tensor)> {
    let mut tensors = Vec::new();
    model.visit(&ModulePath::root(), &mut |at, param| {
        if param.is_trainable() {
            let value = param.value().detach().to_device(Device::Cpu).to_kind(Kind::Float);
            tensors.push((format!("{PREFIX}{at}"), value.contiguous()));
        }
    });
    tensors
}

/// The same tensors under the names that the text model's modules have inside a multimodal one.
pub fn in_multimodal(tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let renamed = |key: String| match PeftPart::of(&key) {
        Some((at, part)) => part.key(&PeftAdapter::wrapped_name(&at)),
        None => key,
    };
    tensors
        .into_iter()
        .map(|(key, tensor)| (renamed(key), tensor))
        .collect()
}

/// `adapter_config.json` as PEFT 0.21 writes it, keys sorted. `chosen`: the scaled modules with their sides.
pub fn to_peft_config<'a>(
    config: &Ia3Config,
    base_model: Option<&str>,
    task_type: &str,
    chosen: impl IntoIterator<Item = (&'a ModulePath, Side)>,
) -> Map<String, Value> {
    let chosen: Vec<_> = chosen.into_iter().collect();
    let names = |is_meant: &dyn Fn(Side) -> bool| -> BTreeSet<&str> {
        let meant = chosen.iter().filter(|(_, side)| is_meant(*side));
        meant.map(|(path, _)| path.name()).collect()
    };
    let targets = match &config.target_modules {
        TargetModules::One(word) if word == "all-linear" => json!(names(&|_| true)),
        TargetModules::Many(names) => json!(names.iter().collect::<BTreeSet<_>>()),
        TargetModules::One(pattern) => json!(pattern),
    };
    // PEFT wants a subset of the targets, and takes an architecture's own where there is none.
    let inputs = match &config.feedforward_modules {
        None => json!(names(&|side| side == Side::Inputs)),
        Some(TargetModules::Many(names)) => json!(names.iter().collect::<BTreeSet<_>>()),
        Some(pattern) => json!(pattern),
    };
    let has_head = task_type == "SEQ_CLS";
    let file = json!({
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "exclude_modules": config.exclude_modules,
        "fan_in_fan_out": false,
        "feedforward_modules": inputs,
        "inference_mode": true,
        "init_ia3_weights": config.init_ia3_weights,
        "modules_to_save": has_head.then_some(HEADS),
        "peft_type": "IA3",
        "peft_version": "0.21.2",
        "revision": null,
        "target_modules": targets,
        "task_type": task_type,
    });
    match file {
        Value::Object(file) => file,
        _ => Map::new(),
    }
}

/// The options of an `adapter_config.json`; options that are on and not supported are refused by name.
pub fn from_peft_config(file: &Map<String, Value>) -> Result<Ia3Config> {
    let unsupported = |key: &str, value: &Value, hint| Error::Unsupported {
        key: key.to_owned(),
        found: value.to_string(),
        hint,
    };
    if let Some(other) = file.get("peft_type").filter(|kind| *kind != "IA3") {
        return Err(unsupported("peft_type", other, "wanted \"IA3\""));
    }
    let mut config = Ia3Config::default();
    for (key, value) in file {
        let is_off = matches!(value, Value::Null | Value::Bool(false)) || value == &json!([]) || value == &json!({});
        let modules = || -> Result<TargetModules> {
            serde_json::from_value(value.clone()).map_err(|_| unsupported(key, value, "wanted names, or one string"))
        };
        match key.as_str() {
            "target_modules" if !value.is_null() => config.target_modules = modules()?,
            // An empty list is a choice: every module is scaled by its outputs.
            "feedforward_modules" if !value.is_null() => config.feedforward_modules = Some(modules()?),
            "exclude_modules" if !is_off => config.exclude_modules = Some(modules()?),
            "init_ia3_weights" => config.init_ia3_weights = value != &Value::Bool(false),
            key if SILENT.contains(&key) || is_off => {}
            key => {
                let hint = "merge the adapter with the library that made it";
                return Err(unsupported(key, value, hint));
            }
        }
    }
    Ok(config)
}
