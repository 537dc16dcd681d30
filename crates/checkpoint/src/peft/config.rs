//! `adapter_config.json` of a LoRA adapter: known keys typed, all others kept as they are.

use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::{Error, Result, python_json};

/// Module names, or one regular expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NamesOrPattern {
    /// Whole paths or their ends.
    Names(Vec<String>),
    /// A regular expression for whole paths, or `all-linear`.
    Pattern(String),
}

/// How the factors were initialised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InitLoraWeights {
    /// PEFT's default (true), or noise in both (false).
    Default(bool),
    /// Another way: `gaussian`, `pissa`, `olora`, …
    Named(String),
}

/// One number or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// The configuration of a LoRA adapter, in PEFT's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of `adapter_config.json` of its own"
)]
pub struct PeftConfig {
    /// `LORA`.
    pub peft_type: String,
    /// `CAUSAL_LM`, `SEQ_CLS` or none.
    pub task_type: Option<String>,
    /// The base model as it was called.
    pub base_model_name_or_path: Option<String>,
    /// The base model's revision on the hub.
    pub revision: Option<String>,
    /// Whether the adapter was saved for use, not for more training.
    pub inference_mode: bool,
    /// Rank.
    pub r: i64,
    /// The update is scaled by `lora_alpha / r`.
    #[serde(serialize_with = "whole")]
    pub lora_alpha: f64,
    /// Dropout of the update's input.
    pub lora_dropout: f64,
    /// Which biases train: `none`, `all` or `lora_only`.
    pub bias: String,
    /// Whether base weights are stored transposed.
    pub fan_in_fan_out: bool,
    /// The modules with an update.
    pub target_modules: Option<NamesOrPattern>,
    /// Modules without one though targeted.
    pub exclude_modules: Option<NamesOrPattern>,
    /// Modules trained and saved whole.
    pub modules_to_save: Option<Vec<String>>,
    /// How the factors were initialised.
    pub init_lora_weights: InitLoraWeights,
    /// Whether the scale is `lora_alpha / √r`.
    pub use_rslora: bool,
    /// Whether magnitudes train apart from directions.
    pub use_dora: bool,
    /// Ranks of modules that differ, by name or regular expression.
    pub rank_pattern: Map<String, Value>,
    /// Alphas of modules that differ.
    pub alpha_pattern: Map<String, Value>,
    layers_to_transform: Option<OneOrMany<usize>>,
    layers_pattern: Option<OneOrMany<String>>,
    /// Whether the factor that writes has a bias.
    pub lora_bias: bool,
    /// The version of PEFT that wrote it.
    pub peft_version: Option<String>,
    /// All keys that are not above.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Keys that PEFT 0.21.2 writes besides those above, with what means "off".
fn inactive() -> Map<String, Value> {
    let json = json!({
        "alora_invocation_tokens": null, "arrow_config": null, "auto_mapping": null, "corda_config": null,
        "ensure_weight_tying": false, "eva_config": null, "kasa_config": null, "layer_replication": null,
        "loftq_config": {}, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
        "monteclora_config": null, "qalora_group_size": 16, "target_parameters": null,
        "trainable_token_indices": null, "use_bdlora": null, "use_qalora": false, "velora_config": null,
    });
    let Value::Object(keys) = json else {
        unreachable!("made as an object")
    };
    keys
}

/// Of these, the ones that change what the adapter computes, or what of it is in the file.
const DECISIVE: [&str; 10] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

impl Default for PeftConfig {
    /// PEFT's own defaults, as of 0.21.2, for a causal language model's adapter that is saved for use.
    fn default() -> Self {
        Self {
            peft_type: "LORA".into(),
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: None,
            revision: None,
            inference_mode: true,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            bias: "none".into(),
            fan_in_fan_out: false,
            target_modules: None,
            exclude_modules: None,
            modules_to_save: None,
            init_lora_weights: InitLoraWeights::Default(true),
            use_rslora: false,
            use_dora: false,
            rank_pattern: Map::new(),
            alpha_pattern: Map::new(),
            layers_to_transform: None,
            layers_pattern: None,
            lora_bias: false,
            peft_version: Some("0.21.2".into()),
            other: inactive(),
        }
    }
}

impl PeftConfig {
    /// Reads an `adapter_config.json`.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let object: Map<String, Value> = serde_json::from_slice(&text).map_err(Error::json(path))?;
        let mut config: Self = serde_json::from_value(Value::Object(object.clone())).map_err(Error::json(path))?;
        // The defaults of these are for what is saved here; a file that leaves them out does not say.
        let has = |key: &str| object.contains_key(key);
        config.task_type = config.task_type.filter(|_| has("task_type"));
        config.peft_version = config.peft_version.filter(|_| has("peft_version"));
        config.inference_mode &= has("inference_mode");
        Ok(config)
    }

    /// Layers that are adapted; none for all.
    pub fn layers_to_transform(&self) -> Option<Vec<usize>> {
        self.layers_to_transform.clone().map(|layers| match layers {
            OneOrMany::One(layer) => vec![layer],
            OneOrMany::Many(layers) => layers,
        })
    }

    /// Names of the module lists that count layers; empty for any.
    pub fn layers_pattern(&self) -> Vec<String> {
        match self.layers_pattern.clone() {
            None => Vec::new(),
            Some(OneOrMany::One(name)) => vec![name],
            Some(OneOrMany::Many(names)) => names,
        }
    }

    /// Adapts these layers only, counted by module lists of these names (any if empty).
    pub fn set_layers(&mut self, layers: Option<Vec<usize>>, patterns: Vec<String>) {
        self.layers_to_transform = layers.map(OneOrMany::Many);
        self.layers_pattern = (!patterns.is_empty()).then_some(OneOrMany::Many(patterns));
    }

    /// Keys that neither PEFT 0.21.2 nor this program knows and that are not off.
    pub fn unknown_keys(&self) -> Vec<&str> {
        let known = inactive();
        let is_off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(object) => object.is_empty(),
            Value::Array(array) => array.is_empty(),
            _ => false,
        };
        let unknown = self
            .other
            .iter()
            .filter(|(key, value)| !known.contains_key(*key) && !is_off(value));
        unknown.map(|(key, _)| key.as_str()).collect()
    }

    /// An error that names the first option that is on and is not done here; `path` is the file's.
    pub(super) fn refuse_unsupported(&self, path: &Path) -> Result<()> {
        let refuse = |what: String, hint: &str| {
            Err(Error::Unsupported {
                path: path.to_owned(),
                what,
                hint: hint.to_owned(),
            })
        };
        if self.peft_type != "LORA" {
            return refuse(format!("`peft_type` = \"{}\"", self.peft_type), "LORA is");
        }
        if self.bias != "none" {
            let what = format!("`bias` = \"{}\"", self.bias);
            return refuse(what, "adapters with trained biases are not; train with bias = \"none\"");
        }
        if self.fan_in_fan_out {
            return refuse(
                "`fan_in_fan_out` = true".into(),
                "it is for Conv1D layers, which no supported model has",
            );
        }
        let off = inactive();
        for key in DECISIVE {
            match self.other.get(key) {
                Some(value) if *value != off[key] && !value.is_null() && *value != json!(false) => {
                    return refuse(
                        format!("`{key}` = {value}"),
                        "merge this adapter with PEFT and use the merged model",
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The file's text, as Python prints it: keys sorted, two spaces, nothing but ASCII, no newline at the end.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::to_value(self).expect("a configuration is JSON");
        value.sort_all_objects();
        python_json::to_string(&value)
    }
}

/// A number without a fraction is written as a whole one, as in Python.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn whole<S: Serializer>(number: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}
