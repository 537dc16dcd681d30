//! An adapter's files: `adapter_config.json` and the tensors of `adapter.safetensors`, named as AdapterHub names them.
//!
//! `model.layers.N.attention_adapters.adapters.NAME.adapter_down.0.weight` and so on. Norms that train and a new head
//! stand beside them under their own names; AdapterHub has no place for those.

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use tensor_core::{ModulePath, Parameters};

use crate::sublayer::ADAPTER;
use crate::{AdapterConfig, Error, Result};

/// The sublayers and what AdapterHub calls their adapters. A Mixtral's experts are its feed-forward.
const PLACES: [(&str, &str); 3] = [
    ("self_attn", "attention_adapters"),
    ("mlp", "output_adapters"),
    ("block_sparse_moe", "output_adapters"),
];

/// The feed-forward whose adapters [`parse`] names, whatever the model calls it.
const FEED_FORWARD: &str = "mlp";

/// The sublayer at `at` as [`parse`] names it.
pub(crate) fn slot(at: &ModulePath) -> ModulePath {
    let path = at.as_str();
    match path.rsplit_once('.') {
        Some((block, "block_sparse_moe")) => ModulePath::from(block).join(FEED_FORWARD),
        _ => at.clone(),
    }
}

/// What a file says about the model besides the options.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// As it was called.
    pub model_name: &'a str,
    /// Its class in Transformers.
    pub model_class: &'a str,
    /// Its type in Transformers.
    pub model_type: &'a str,
    /// d.
    pub hidden_size: i64,
}

/// Everything of `model` that trains, f32, under the names of the file, in the model's order.
pub fn adapter_tensors(model: &(impl Parameters + ?Sized)) -> Vec<(String, Tensor)> {
    let mut tensors = Vec::new();
    model.visit(&ModulePath::root(), &mut |at, param| {
        if param.is_trainable() {
            let value = param.value().detach().to_device(Device::Cpu).to_kind(Kind::Float);
            tensors.push((named(at.as_str()), value.contiguous()));
        }
    });
    tensors
}

/// The name in the file of the parameter at `path`.
fn named(path: &str) -> String {
    for (sublayer, place) in PLACES {
        let ours = format!(".{sublayer}.{ADAPTER}.");
        if path.contains(&ours) {
            return path.replace(&ours, &format!(".{place}.{ADAPTER}."));
        }
    }
    path.to_owned()
}

/// The sublayer that a tensor's name belongs to, and which of its adapter's tensors it is; none for other tensors.
pub(crate) fn parse(name: &str) -> Option<(ModulePath, String)> {
    for (sublayer, place) in PLACES {
        if let Some((block, rest)) = name.split_once(&format!(".{place}.adapters.")) {
            // The adapter's own name comes first.
            let (_, tensor) = rest.split_once('.')?;
            return Some((ModulePath::from(block).join(sublayer), tensor.to_owned()));
        }
    }
    None
}

/// `adapter_config.json`, as AdapterHub lays it out.
pub fn to_adapter_config(config: &AdapterConfig, about: &About) -> Map<String, Value> {
    let options = serde_json::to_value(config).unwrap_or_default();
    let mut fields = Map::new();
    for key in SHARED {
        fields.insert(key.to_owned(), options[key].clone());
    }
    // AdapterHub has no such way; it has no meaning once the weights are there.
    if fields["init_weights"] == json!("zero") {
        fields.insert("init_weights".into(), json!("mam_adapter"));
    }
    for (key, value) in fixed() {
        fields.insert(key.to_owned(), value);
    }
    let file = json!({
        "config": fields,
        "hidden_size": about.hidden_size,
        "model_class": about.model_class,
        "model_name": about.model_name,
        "model_type": about.model_type,
        "name": "default",
        "parallel_input": "normed",
        "preset": options["config"],
        "train_norms": config.train_norms,
    });
    match file {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The options of an `adapter_config.json`; active options that are not supported are refused by name.
pub fn from_adapter_config(file: &Map<String, Value>) -> Result<AdapterConfig> {
    let wrong = |key: &str, found: &Value, hint| {
        Err(Error::Unsupported {
            key: key.to_owned(),
            found: found.to_string(),
            hint,
        })
    };
    let Some(fields) = file.get("config").and_then(Value::as_object) else {
        let found = file.get("config").unwrap_or(&Value::Null);
        return wrong("config", found, "wanted an object with the adapter's options");
    };
    for (key, plain) in fixed() {
        match fields.get(key) {
            Some(found) if *found != plain => {
                return wrong(
                    key,
                    found,
                    "adapters read a sublayer's output or input, and nothing is added to that",
                );
            }
            _ => {}
        }
    }
    for key in ["stochastic_depth", "inv_adapter", "cross_adapter"] {
        let found = fields.get(key).unwrap_or(&Value::Null);
        if !(found.is_null() || *found == json!(false) || found.as_f64() == Some(0.0)) {
            return wrong(key, found, "only plain bottleneck adapters are read");
        }
    }
    let is_known = |key: &String| {
        SHARED.contains(&key.as_str())
            || fixed().iter().any(|(known, _)| known == key)
            || PASSED.contains(&key.as_str())
            || key.contains("phm")
    };
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        other => other.as_f64() == Some(0.0),
    };
    if let Some((key, found)) = fields.iter().find(|(key, value)| !is_known(key) && !is_off(value)) {
        let hint = "the key is not known here, so what it does to the adapter is not either: merge or convert it with the library that made it";
        return wrong(key, found, hint);
    }
    if fields.get("is_parallel") == Some(&json!(true)) && file.get("parallel_input") != Some(&json!("normed")) {
        let hint = "AdapterHub's parallel adapters read the stream before the norm; those here read what the norm gave";
        return wrong("is_parallel", &json!(true), hint);
    }
    let mut options = Map::new();
    if let Some(preset) = file.get("preset") {
        options.insert("config".into(), preset.clone());
    }
    for key in SHARED {
        if let Some(value) = fields.get(key).filter(|value| !value.is_null()) {
            options.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(value) = file.get("train_norms") {
        options.insert("train_norms".into(), value.clone());
    }
    serde_json::from_value(Value::Object(options)).map_err(|error| Error::Unsupported {
        key: "config".into(),
        found: error.to_string(),
        hint: "the file must be one that `finetune` or AdapterHub could write",
    })
}

/// Options that both sides know.
const SHARED: [&str; 9] = [
    "mh_adapter",
    "output_adapter",
    "reduction_factor",
    "non_linearity",
    "is_parallel",
    "scaling",
    "init_weights",
    "leave_out",
    "dropout",
];

/// Options of AdapterHub's that are checked apart, or that mean something only beside others that are off (`phm_layer`,
/// `hypercomplex_nonlinearity` under it, an invertible adapter).
const PASSED: [&str; 7] = [
    "stochastic_depth",
    "inv_adapter",
    "inv_adapter_reduction_factor",
    "cross_adapter",
    "residual_before_ln",
    "hypercomplex_nonlinearity",
    "architecture",
];

/// Options of AdapterHub's that have one value here.
fn fixed() -> [(&'static str, Value); 7] {
    [
        ("adapter_residual_before_ln", json!(false)),
        ("ln_after", json!(false)),
        ("ln_before", json!(false)),
        ("original_ln_after", json!(true)),
        ("original_ln_before", json!(false)),
        ("phm_layer", json!(false)),
        ("use_gating", json!(false)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_to_the_file_and_back() {
        let theirs = "model.layers.3.output_adapters.adapters.default.adapter_down.0.weight";
        assert_eq!(
            named("model.layers.3.mlp.adapters.default.adapter_down.0.weight"),
            theirs
        );
        for name in ["default", "my-task"] {
            let name = theirs.replace("default", name);
            let found = parse(&name).unwrap();
            assert_eq!(
                found,
                ("model.layers.3.mlp".into(), "adapter_down.0.weight".into()),
                "{name}"
            );
        }
        let found = parse("model.layers.0.attention_adapters.adapters.a.scaling").unwrap();
        assert_eq!(found, ("model.layers.0.self_attn".into(), "scaling".into()));
        // A Mixtral's feed-forward has another name, and its adapters the same.
        let experts = ModulePath::from("model.layers.3.block_sparse_moe");
        assert_eq!(
            named(&format!("{experts}.adapters.default.adapter_down.0.weight")),
            theirs
        );
        assert_eq!(slot(&experts), "model.layers.3.mlp".into());
        assert_eq!(
            slot(&"model.layers.3.self_attn".into()),
            "model.layers.3.self_attn".into()
        );
        assert_eq!(parse("model.norm.weight"), None);
        assert_eq!(named("model.norm.weight"), "model.norm.weight");
    }

    fn written(text: &str) -> (AdapterConfig, Map<String, Value>) {
        let config: AdapterConfig = serde_json::from_str(text).unwrap();
        let about = About {
            model_name: "tiny",
            model_class: "LlamaForCausalLM",
            model_type: "llama",
            hidden_size: 32,
        };
        let file = to_adapter_config(&config, &about);
        (config, file)
    }

    #[test]
    fn options_go_to_the_file_and_back() {
        for text in [
            r#"{"config": "double_seq_bn", "init_weights": "houlsby", "train_norms": true}"#,
            r#"{"config": "par_bn", "init_weights": "bert", "scaling": "learned", "leave_out": [1]}"#,
            r#"{"config": "seq_bn", "init_weights": "mam", "reduction_factor": {"default": 4, "1": 8}, "dropout": 0.1}"#,
        ] {
            let (config, file) = written(text);
            assert_eq!(from_adapter_config(&file).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn adapterhub_s_own_files_are_read_where_they_mean_the_same() {
        // As the library wrote them for BERT and for Llama, less what is off.
        let file =
            |config: Value| json!({"config": config, "hidden_size": 32, "name": "sst-2", "version": "adapters.1.0.0"});
        let read = |value: &Value| from_adapter_config(value.as_object().unwrap());
        let houlsby = json!({
            "mh_adapter": true, "output_adapter": true, "reduction_factor": 16, "non_linearity": "swish",
            "original_ln_before": false, "original_ln_after": true, "residual_before_ln": true, "use_gating": false,
            "adapter_residual_before_ln": false, "ln_before": false, "ln_after": false, "init_weights": "bert",
            "is_parallel": false, "scaling": 1.0, "phm_layer": false, "inv_adapter": null, "cross_adapter": false,
            "leave_out": [], "dropout": 0.0, "stochastic_depth": 0.0, "phm_dim": 4, "hypercomplex_nonlinearity": "glorot-uniform",
            "shiny_new_option": null,
        });
        let config = read(&file(houlsby.clone())).unwrap();
        assert_eq!((config.mh_adapter, config.bottleneck(32, 0).unwrap()), (true, 2));
        for (key, value) in [
            ("original_ln_before", json!(true)),
            ("use_gating", json!(true)),
            ("phm_layer", json!(true)),
            ("is_parallel", json!(true)),
            ("inv_adapter", json!("nice")),
            ("scaling", json!("channel")),
            ("shiny_new_option", json!(2)),
        ] {
            let mut changed = houlsby.clone();
            changed[key] = value;
            let error = read(&file(changed)).unwrap_err().to_string();
            assert!(
                error.contains("adapter_config.json") && error.contains("hint"),
                "{key}: {error}"
            );
        }
    }
}
