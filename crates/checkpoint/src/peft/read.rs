//! Reading an `adapter_config.json`: every key is understood, or off, or refused by name.
//!
//! This is the one table of PEFT's keys: whoever loads, merges, combines or inspects an adapter reads through it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::inactive;
use super::{InitLoraWeights, PeftConfig};
use crate::{Error, Result};

/// What a key's value must look like; JSON's null stands for "not given" unless the form says otherwise.
#[derive(Clone, Copy)]
enum Form {
    Flag,
    Text,
    Rank,
    Number,
    Share,
    NamesOrPattern,
    Names,
    Ranks,
    Numbers,
    Layers,
    Patterns,
    Init,
}

/// The keys that are typed, with their forms.
const TYPED: [(&str, Form); 21] = [
    ("task_type", Form::Text),
    ("base_model_name_or_path", Form::Text),
    ("revision", Form::Text),
    ("inference_mode", Form::Flag),
    ("r", Form::Rank),
    ("lora_alpha", Form::Number),
    ("lora_dropout", Form::Share),
    ("bias", Form::Text),
    ("fan_in_fan_out", Form::Flag),
    ("target_modules", Form::NamesOrPattern),
    ("exclude_modules", Form::NamesOrPattern),
    ("modules_to_save", Form::Names),
    ("init_lora_weights", Form::Init),
    ("use_rslora", Form::Flag),
    ("use_dora", Form::Flag),
    ("rank_pattern", Form::Ranks),
    ("alpha_pattern", Form::Numbers),
    ("layers_to_transform", Form::Layers),
    ("layers_pattern", Form::Patterns),
    ("lora_bias", Form::Flag),
    ("peft_version", Form::Text),
];

/// Keys of PEFT that say how an adapter was made, not what it computes: any value passes.
const HARMLESS: [&str; 8] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "qalora_group_size",
];

/// Keys that this program writes into the file itself.
const OWN: [&str; 1] = ["keep_zeros"];

impl Form {
    fn accepts(self, value: &Value) -> bool {
        let texts = |value: &Value| {
            let list = value.as_array();
            list.is_some_and(|list| list.iter().all(Value::is_string))
        };
        let each = |value: &Value, accepts: fn(&Value) -> bool| {
            let object = value.as_object();
            object.is_some_and(|object| object.values().all(accepts))
        };
        let is_rank = |value: &Value| value.as_i64().is_some_and(|rank| rank >= 1);
        let is_layer = |value: &Value| value.as_u64().is_some();
        match self {
            Self::Flag => value.is_boolean(),
            Self::Text => value.is_string(),
            Self::Rank => is_rank(value),
            Self::Number => value.is_number(),
            Self::Share => value.as_f64().is_some_and(|share| (0.0..1.0).contains(&share)),
            Self::NamesOrPattern | Self::Patterns => value.is_string() || texts(value),
            Self::Names => texts(value),
            Self::Ranks => each(value, |value| value.as_i64().is_some_and(|rank| rank >= 1)),
            Self::Numbers => each(value, Value::is_number),
            Self::Layers => is_layer(value) || value.as_array().is_some_and(|list| list.iter().all(is_layer)),
            Self::Init => value.is_boolean() || value.is_string(),
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Text => "a text",
            Self::Rank => "a whole number of 1 or more",
            Self::Number => "a number",
            Self::Share => "a number from 0 to below 1",
            Self::NamesOrPattern => "a list of module names, or one pattern",
            Self::Names => "a list of module names",
            Self::Ranks => "an object of patterns and ranks of 1 or more",
            Self::Numbers => "an object of patterns and numbers",
            Self::Layers => "a layer's number, or a list of them",
            Self::Patterns => "a name, or a list of names",
            Self::Init => "true, false or the name of an initialisation",
        }
    }
}

impl PeftConfig {
    /// Reads an `adapter_config.json`; an error that names the key where an option is on that is not done here.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Self::from_object(path, python_json::from_slice(&text).map_err(Error::json(path))?)
    }

    /// As [`Self::open`], from the file's object; `path` is named in errors.
    pub fn from_object(path: &Path, mut object: Map<String, Value>) -> Result<Self> {
        refuse_other_tools(path, &object)?;
        for (key, form) in TYPED {
            let Some(value) = object.get(key) else { continue };
            // What PEFT reads as "not given". A rank and an alpha are always given.
            if value.is_null() && !matches!(key, "r" | "lora_alpha") {
                if key == "init_lora_weights" {
                    object.insert(key.to_owned(), json!(false));
                } else {
                    object.shift_remove(key);
                }
                continue;
            }
            if !form.accepts(value) {
                return Err(Error::Unsupported {
                    path: path.to_owned(),
                    what: format!("`{key}` = {value}"),
                    hint: format!("wanted {}", form.wanted()),
                });
            }
        }
        let has: Vec<bool> = ["task_type", "peft_version", "inference_mode"]
            .map(|key| object.contains_key(key))
            .to_vec();
        let mut config: Self = serde_json::from_value(Value::Object(object)).map_err(Error::json(path))?;
        // The defaults of these are for what is saved here; a file that leaves them out does not say.
        config.task_type = config.task_type.filter(|_| has[0]);
        config.peft_version = config.peft_version.filter(|_| has[1]);
        config.inference_mode &= has[2];
        config.refuse_unsupported(path)?;
        Ok(config)
    }

    /// An error that names the first option that is on and is not done here; `path` is the file's.
    fn refuse_unsupported(&self, path: &Path) -> Result<()> {
        let refuse = |what: String, hint: String| {
            Err(Error::Unsupported {
                path: path.to_owned(),
                what,
                hint,
            })
        };
        if self.bias != "none" {
            let hint = "adapters with trained biases are not read; train with bias = \"none\"";
            return refuse(format!("`bias` = \"{}\"", self.bias), hint.into());
        }
        if self.lora_bias {
            return refuse("`lora_bias` = true".into(), MERGE_THERE.into());
        }
        if let Some((what, hint)) = self.init_that_is_lost() {
            return refuse(what, hint);
        }
        let known = inactive();
        for (key, value) in &self.other {
            let passes = HARMLESS.contains(&key.as_str()) || OWN.contains(&key.as_str()) || is_off(value);
            if passes || known.get(key) == Some(value) {
                continue;
            }
            let hint = match (known.contains_key(key), &self.peft_version) {
                (true, _) => MERGE_THERE.to_owned(),
                (false, Some(version)) => format!(
                    "the file was written by PEFT {version}, and this key is not one of 0.21's: what it does to the adapter is not known here; {MERGE_THERE}"
                ),
                (false, None) => {
                    format!(
                        "the key is not one of PEFT 0.21's: what it does to the adapter is not known here; {MERGE_THERE}"
                    )
                }
            };
            return refuse(format!("`{key}` = {value}"), hint);
        }
        Ok(())
    }

    /// An initialisation that changed the base in a way that cannot be had again, and what to do.
    fn init_that_is_lost(&self) -> Option<(String, String)> {
        let InitLoraWeights::Named(name) = &self.init_lora_weights else {
            return None;
        };
        let lower = name.to_lowercase();
        let what = format!("`init_lora_weights` = \"{name}\"");
        if lower.starts_with("corda") {
            let hint = "CorDA takes the first update out of the base by statistics of data, which the file does not hold: convert it in PEFT with \
                        `save_pretrained(folder, path_initial_model_for_weight_conversion=…)`, or merge it there";
            return Some((what, hint.into()));
        }
        if lower == "loftq" {
            let hint = "PEFT packs and unpacks the base again when it loads such an adapter, which is not repeated here: merge it there \
                        (`merge_and_unload`) and use the merged model";
            return Some((what, hint.into()));
        }
        let plain = ["gaussian", "eva", "orthogonal", "lora_ga", "mica", "olora", "default"];
        let is_pissa = name == "pissa"
            || name
                .strip_prefix("pissa_niter_")
                .is_some_and(|count| count.parse::<u32>().is_ok());
        (!is_pissa && !plain.contains(&lower.as_str())).then(|| {
            let hint = format!("whether it changes the base is not known here; {MERGE_THERE}");
            (what, hint)
        })
    }
}

const MERGE_THERE: &str = "merge the adapter with the library that made it, and use the merged model";

/// Whether a key with this value does nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(object) => object.is_empty(),
        Value::Array(array) => array.is_empty(),
        _ => false,
    }
}

/// Calls an adapter that is not PEFT's LoRA what it is.
fn refuse_other_tools(path: &Path, object: &Map<String, Value>) -> Result<()> {
    let refuse = |what: String, hint: &str| {
        Err(Error::Unsupported {
            path: path.to_owned(),
            what,
            hint: hint.to_owned(),
        })
    };
    match object.get("peft_type") {
        Some(Value::String(kind)) if kind.to_uppercase() == "LORA" => Ok(()),
        Some(Value::String(kind)) => refuse(
            format!("`peft_type` = \"{kind}\""),
            "PEFT's \"LORA\" is read (DoRA included); merge this adapter with the library that made it, and use the merged model",
        ),
        Some(other) => refuse(format!("`peft_type` = {other}"), "wanted \"LORA\""),
        None if ["fine_tune_type", "lora_parameters", "lora_layers"]
            .iter()
            .any(|key| object.contains_key(*key)) =>
        {
            refuse(
                "an adapter of MLX (`lora_parameters` instead of PEFT's keys)".into(),
                "MLX stores other names and transposed factors: fuse it there (`mlx_lm.fuse`) and use the fused model",
            )
        }
        None => Err(Error::Missing {
            path: path.to_owned(),
            what: "`peft_type`".into(),
            hint: "PEFT writes it into every `adapter_config.json`: add `\"peft_type\": \"LORA\"` if this is a LoRA of PEFT's form, else \
                   merge the adapter with the tool that made it"
                .into(),
        }),
    }
}
