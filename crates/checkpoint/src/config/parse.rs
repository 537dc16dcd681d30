//! From JSON to a [`ModelConfig`], with each family's defaults.

use std::path::Path;

use serde_json::{Map, Value, json};
use tch::Kind;

use super::fields::{Fields, whole};
use super::layers::layers_of;
use super::{Activation, Family, LayerKind, ModelConfig, Output, experts, rope};
use crate::{Error, Result};

/// Layers of a model at most: the deepest that are published have some 130.
const MOST_LAYERS: i64 = 2048;

/// Defaults of a family's configuration class.
struct Defaults {
    sizes: [i64; 5],
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    max_position_embeddings: i64,
    activation: (&'static str, &'static str),
    tied: bool,
    bos: &'static [i64],
    eos: &'static [i64],
    pad: &'static [i64],
}

impl Defaults {
    /// `sizes`: vocabulary, hidden, intermediate, layers, heads.
    fn of(family: Family) -> Self {
        let llama = Self {
            sizes: [32_000, 4096, 11_008, 32, 32],
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            activation: ("hidden_act", "silu"),
            tied: false,
            bos: &[1],
            eos: &[2],
            pad: &[],
        };
        let qwen = Self {
            sizes: [151_936, 4096, 22_016, 32, 32],
            num_key_value_heads: Some(32),
            max_position_embeddings: 32_768,
            bos: &[],
            eos: &[],
            ..llama
        };
        match family {
            Family::Llama => llama,
            Family::Mistral | Family::Mixtral => Self {
                sizes: [32_000, 4096, 14_336, 32, 32],
                num_key_value_heads: Some(8),
                max_position_embeddings: 4096 * 32,
                ..llama
            },
            Family::Qwen2 => qwen,
            Family::Qwen3 => Self {
                head_dim: Some(128),
                ..qwen
            },
            Family::Qwen2Moe => Self {
                sizes: [151_936, 2048, 5632, 24, 16],
                num_key_value_heads: Some(16),
                ..qwen
            },
            Family::Qwen3Moe => Self {
                sizes: [151_936, 2048, 6144, 24, 32],
                num_key_value_heads: Some(4),
                ..qwen
            },
            Family::Gemma3 => Self {
                sizes: [262_208, 2304, 9216, 26, 8],
                num_key_value_heads: Some(4),
                head_dim: Some(256),
                max_position_embeddings: 131_072,
                activation: ("hidden_activation", "gelu_pytorch_tanh"),
                tied: true,
                bos: &[2],
                eos: &[1],
                pad: &[0],
            },
        }
    }
}

impl ModelConfig {
    /// Reads a `config.json` file.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let object = python_json::from_slice(&text).map_err(Error::json(path))?;
        Self::from_object(path, object).map_err(|error| error.in_text(&text))
    }

    /// Reads the object of a `config.json`; `path` is named in errors.
    pub fn from_object(path: &Path, raw: Map<String, Value>) -> Result<Self> {
        let is_of_multimodal = raw.get("text_config").is_some();
        let (family, output, mut raw) = identify(path, raw)?;
        counts_as_whole_numbers(&mut raw);
        let fields = Fields {
            path,
            object: &raw,
            prefix: "",
        };
        refuse_options(fields)?;
        let defaults = Defaults::of(family);
        let [vocab_size, hidden_size, intermediate_size, layers, heads] = defaults.sizes;
        let hidden_size = fields.count_or("hidden_size", hidden_size)?;
        let num_attention_heads = fields.count_or("num_attention_heads", heads)?;
        let num_hidden_layers = fields.few_or("num_hidden_layers", MOST_LAYERS, layers)? as usize;
        let num_key_value_heads = match raw.get("num_key_value_heads") {
            None => defaults.num_key_value_heads,
            Some(_) => fields.count("num_key_value_heads")?,
        };
        let head_dim = match raw.get("head_dim") {
            None => defaults.head_dim,
            Some(_) => fields.count("head_dim")?,
        };
        let num_key_value_heads = num_key_value_heads.unwrap_or(num_attention_heads);
        let head_dim = head_dim.unwrap_or(hidden_size / num_attention_heads);
        let divides = |key: &str, whole: i64, part: i64| match whole % part {
            0 => Ok(()),
            _ => Err(fields.wrong(key, &format!("a divisor of {whole}"), &part.to_string())),
        };
        divides("num_key_value_heads", num_attention_heads, num_key_value_heads)?;
        if head_dim % 2 != 0 || head_dim == 0 {
            return Err(fields.wrong("head_dim", "an even number", &head_dim.to_string()));
        }
        let max_position_embeddings = fields.count_or("max_position_embeddings", defaults.max_position_embeddings)?;
        let (layer_types, sliding_window) = layers_of(fields, family, num_hidden_layers)?;
        let bias = fields.flag("attention_bias")?;
        let (qkv_bias, o_bias) = match family {
            Family::Qwen2 => (true, false),
            Family::Qwen2Moe => (fields.get("qkv_bias").is_none() || fields.flag("qkv_bias")?, false),
            Family::Mistral | Family::Mixtral => (false, false),
            _ => (bias, bias),
        };
        let gemma = family == Family::Gemma3;
        let attention_scale = match gemma {
            true => fields.number("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5),
            false => (head_dim as f64).powf(-0.5),
        };
        let intermediate_size = fields.count_or("intermediate_size", intermediate_size)?;
        let first = |key, default| Ok::<_, Error>(fields.tokens(key, default)?.first().copied());
        let read_rope = |kind| rope::read(fields, family, kind, max_position_embeddings);
        Ok(Self {
            family,
            output,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: fields.count_or("vocab_size", vocab_size)?,
            max_position_embeddings,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(match family {
                Family::Mixtral => 1e-5,
                _ => 1e-6,
            }),
            hidden_act: activation(fields, defaults.activation)?,
            qkv_bias,
            o_bias,
            mlp_bias: family == Family::Llama && fields.flag("mlp_bias")?,
            qk_norm: matches!(family, Family::Qwen3 | Family::Qwen3Moe | Family::Gemma3),
            post_norms: gemma,
            norm_offset: if gemma { 1.0 } else { 0.0 },
            embedding_scale: gemma.then(|| (hidden_size as f64).sqrt()),
            attention_scale,
            experts: experts::read(fields, family, num_hidden_layers, intermediate_size)?,
            layer_types,
            sliding_window,
            rope: read_rope(LayerKind::Full)?,
            rope_sliding: read_rope(LayerKind::Sliding)?,
            tie_word_embeddings: match fields.get("tie_word_embeddings") {
                Some(_) => fields.flag("tie_word_embeddings")?,
                None => defaults.tied,
            },
            bos_token_id: first("bos_token_id", defaults.bos)?,
            eos_token_ids: fields.tokens("eos_token_id", defaults.eos)?,
            pad_token_id: first("pad_token_id", defaults.pad)?,
            labels: labels(fields, output)?,
            dtype: dtype(fields)?,
            is_of_multimodal,
            path: path.to_owned(),
            raw,
        })
    }
}

/// Sizes and ids that some tool wrote as `32.0` become `32`, which every reader understands.
fn counts_as_whole_numbers(raw: &mut Map<String, Value>) {
    for (key, value) in raw {
        let is_count = key.starts_with("num_")
            || ["_size", "_dim", "_window", "_embeddings", "_token_id"]
                .iter()
                .any(|end| key.ends_with(end));
        if let Some(count) = whole(value).filter(|_| is_count && value.is_f64()) {
            *value = json!(count);
        }
    }
}

/// Family and output of a configuration; a multimodal Gemma 3 is reduced to its text model.
fn identify(path: &Path, mut raw: Map<String, Value>) -> Result<(Family, Output, Map<String, Value>)> {
    let named = |raw: &Map<String, Value>| raw.get("architectures")?.get(0)?.as_str().map(str::to_owned);
    let mut architecture = named(&raw);
    if architecture.as_deref() == Some("Gemma3ForConditionalGeneration") {
        let text = raw.remove("text_config").and_then(|text| text.as_object().cloned());
        let mut text = text.ok_or_else(|| Error::Key {
            path: path.to_owned(),
            key: "text_config".into(),
            wanted: "an object".into(),
            found: "none".into(),
        })?;
        for key in [
            "dtype",
            "torch_dtype",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "transformers_version",
        ] {
            if let (Some(value), false) = (raw.remove(key), text.contains_key(key)) {
                text.insert(key.to_owned(), value);
            }
        }
        text.insert("architectures".into(), json!(["Gemma3ForCausalLM"]));
        text.insert("model_type".into(), json!("gemma3_text"));
        raw = text;
        architecture = named(&raw);
    }
    let model_type = raw.get("model_type").and_then(Value::as_str);
    let found = match &architecture {
        Some(architecture) => Family::ALL.into_iter().find_map(|family| {
            [Output::LanguageModel, Output::SequenceClassifier]
                .into_iter()
                .find(|output| family.architecture(*output) == *architecture)
                .map(|output| (family, output))
        }),
        // Without architectures, as in Transformers: the type alone, as a language model.
        None => Family::ALL
            .into_iter()
            .find(|family| Some(family.model_type()) == model_type)
            .map(|family| (family, Output::LanguageModel)),
    };
    let (family, output) = found.ok_or_else(|| {
        let what = match (&architecture, model_type) {
            (Some(architecture), _) => format!("architecture `{architecture}`"),
            (None, Some(model_type)) => format!("`model_type` = \"{model_type}\""),
            (None, None) => "a configuration that names no `architectures` and no `model_type`".into(),
        };
        let names: Vec<&str> = Family::ALL.into_iter().map(Family::name).collect();
        Error::Unsupported {
            path: path.to_owned(),
            what,
            hint: format!(
                "supported are {} with ForCausalLM or ForSequenceClassification",
                names.join(", ")
            ),
        }
    })?;
    Ok((family, output, raw))
}

/// Refuses what would change the mathematics and is not done here.
fn refuse_options(fields: Fields<'_>) -> Result<()> {
    let off = [json!(false), json!(0), json!(0.0)];
    for key in [
        "final_logit_softcapping",
        "attn_logit_softcapping",
        "use_bidirectional_attention",
    ] {
        fields.refuse(key, &off, "only models without it are")?;
    }
    let Some(quantised) = fields.object("quantization_config", "quantization_config.")? else {
        return Ok(());
    };
    // Weights say for themselves how they are packed.
    let four_bits = quantised.flag("load_in_4bit")? || quantised.flag("_load_in_4bit")?;
    if quantised.text("quant_method")?.unwrap_or("bitsandbytes") == "bitsandbytes" && four_bits {
        return Ok(());
    }
    fields.refuse(
        "quantization_config",
        &[],
        "bitsandbytes' 4 bits are; else take the unquantised model, or a GGUF file, and let a recipe quantise it",
    )
}

fn activation(fields: Fields<'_>, (key, default): (&str, &str)) -> Result<Activation> {
    match fields.text(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(fields.unsupported(key, &json!(other), "silu and gelu_pytorch_tanh are")),
    }
}

fn labels(fields: Fields<'_>, output: Output) -> Result<Vec<String>> {
    if output == Output::LanguageModel {
        return Ok(Vec::new());
    }
    let Some(by_id) = fields.object("id2label", "id2label.")? else {
        let count = fields.count_or("num_labels", 2)?;
        return Ok((0..count).map(|idx| format!("LABEL_{idx}")).collect());
    };
    (0..by_id.object.len())
        .map(|idx| {
            let label = by_id.text(&idx.to_string())?;
            label
                .map(str::to_owned)
                .ok_or_else(|| by_id.wrong(&idx.to_string(), "a label", "nothing"))
        })
        .collect()
}

fn dtype(fields: Fields<'_>) -> Result<Option<Kind>> {
    let text = fields.text("dtype")?.or(fields.text("torch_dtype")?);
    Ok(text.and_then(|text| match text.trim_start_matches("torch.") {
        "float32" => Some(Kind::Float),
        "float16" => Some(Kind::Half),
        "bfloat16" => Some(Kind::BFloat16),
        "float64" => Some(Kind::Double),
        _ => None,
    }))
}
