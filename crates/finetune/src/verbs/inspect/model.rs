//! What a model is: architecture, sizes, special tokens, template.

use std::collections::BTreeSet;

use anyhow::Result;
use checkpoint::{Output, Rope, RopeScaling};
use models::Source;
use serde_json::{Map, Value, json};
use tch::Kind;

use crate::output;

/// The facts, in the order they are shown.
pub(super) fn facts(name: &str, with_tensors: bool) -> Result<Map<String, Value>> {
    let source = Source::open(name, &output::events())?;
    let (dir, config) = (source.dir(), source.dir().config());
    let mut bytes = 0;
    let (mut tensors, mut schemes) = (Vec::new(), BTreeSet::new());
    for name in dir.names() {
        let info = dir.info(name)?;
        let count: i64 = info.shape.iter().product();
        let held = match dir.packed(name)? {
            None => (
                count as usize * info.kind.elt_size_in_bytes(),
                dtype(info.kind).to_owned(),
            ),
            Some(packed) => {
                let scheme = models::quantised::scheme(packed.code).to_string();
                schemes.insert(scheme.clone());
                (packed.num_bytes(), scheme)
            }
        };
        bytes += held.0;
        tensors.push(json!({ "name": name, "shape": info.shape, "dtype": held.1 }));
    }
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    put("kind", json!("model"));
    put("path", json!(dir.path().display().to_string()));
    put(
        "format",
        json!(if dir.is_gguf() {
            "GGUF"
        } else {
            "Hugging Face directory"
        }),
    );
    put("architecture", json!(config.family.architecture(config.output)));
    put("parameters", json!(config.num_parameters()));
    put("memory", json!(output::bytes(bytes as f64)));
    put("dtype", json!(config.dtype.map(dtype)));
    if !schemes.is_empty() {
        put("quantised", json!(schemes));
    }
    put("layers", json!(config.num_hidden_layers));
    put("hidden_size", json!(config.hidden_size));
    put("intermediate_size", json!(config.intermediate_size));
    if let Some(experts) = &config.experts {
        put("num_experts", json!(experts.num_experts));
        put("num_experts_per_tok", json!(experts.num_experts_per_tok));
    }
    put("attention_heads", json!(config.num_attention_heads));
    put("key_value_heads", json!(config.num_key_value_heads));
    put("head_dim", json!(config.head_dim));
    put("vocabulary", json!(config.vocab_size));
    put("positions", json!(config.max_positions()));
    put("sliding_window", json!(config.sliding_window));
    put("rope", json!(rope(&config.rope)));
    put("tied_embeddings", json!(config.tie_word_embeddings));
    if config.output == Output::SequenceClassifier {
        put("labels", json!(config.labels));
    }
    match source.quiet_tokenizer() {
        Err(error) => put("tokenizer", json!(format!("cannot be read: {error:#}"))),
        Ok(tokenizer) => {
            let name = |id: u32| tokenizer.token(id).unwrap_or_else(|| id.to_string());
            put("tokens", json!(tokenizer.vocab_size()));
            put("bos", json!(tokenizer.bos().map(name)));
            put(
                "end_tokens",
                json!(tokenizer.eos_ids().iter().map(|&id| name(id)).collect::<Vec<_>>()),
            );
            let places = tokenizer.end_tokens().iter().filter(|place| !place.ids.is_empty());
            let named = places.map(|place| {
                let ids: Vec<String> = place.ids.iter().map(|&id| name(id)).collect();
                (place.place.clone(), json!(ids))
            });
            put("end_tokens_named_by", Value::Object(named.collect()));
            put("text_ends_with", json!(tokenizer.eos().map(name)));
            let templates: Vec<&str> = tokenizer.templates().iter().map(|(name, _)| name).collect();
            put(
                "chat_templates",
                json!(if templates.is_empty() { vec!["none"] } else { templates }),
            );
            if let Some(template) = tokenizer.templates().choose(false) {
                put("chat_template", json!(template.source()));
            }
        }
    }
    put("prompt_format", json!(source.prompt_format()));
    let notes = source.notes();
    if !notes.is_empty() {
        put("notes", json!(notes));
    }
    if !dir.unexpected().is_empty() {
        put("unused_tensors", json!(dir.unexpected()));
    }
    if with_tensors {
        put("tensors", json!(tensors));
    }
    Ok(facts)
}

/// As checkpoints name it.
pub(super) fn dtype(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "float32",
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        Kind::Double => "float64",
        Kind::Uint8 => "uint8",
        Kind::Int8 => "int8",
        Kind::Int64 => "int64",
        _ => "other",
    }
}

/// The rotary embedding in words.
fn rope(rope: &Rope) -> String {
    let theta = rope.theta;
    match rope.scaling {
        RopeScaling::Default => format!("theta {theta}"),
        RopeScaling::Linear { factor } => format!("theta {theta}, positions divided by {factor}"),
        RopeScaling::Llama3 {
            factor,
            original_max_position_embeddings: trained,
            ..
        } => format!("theta {theta}, stretched {factor} times from {trained} positions (llama3)"),
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: trained,
            ..
        } => format!("theta {theta}, stretched {factor} times from {trained} positions (YaRN)"),
    }
}
