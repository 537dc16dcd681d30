//! `adapter_config.json` of a LoRA adapter: known keys typed, all others kept as they are. It is read in `read.rs`.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

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
pub(super) fn inactive() -> Map<String, Value> {
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

    /// The keys and values as an object, sorted.
    pub fn to_object(&self) -> Map<String, Value> {
        let mut value = serde_json::to_value(self).expect("a configuration is JSON");
        value.sort_all_objects();
        match value {
            Value::Object(object) => object,
            _ => unreachable!("a structure is an object"),
        }
    }

    /// The file's text, as Python prints it: keys sorted, two spaces, nothing but ASCII, no newline at the end.
    pub fn to_json(&self) -> String {
        python_json::to_string(&self.to_object())
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
