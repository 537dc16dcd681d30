//! Changing a configuration and writing it back in the dialect that it came in.

use serde_json::{Map, Value, json};
use tch::Kind;

use super::{Family, LayerKind, ModelConfig, Output};
use crate::PackedCode;

/// The generation of Transformers whose words a `config.json` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `torch_dtype`, `rope_theta`, `rope_scaling`.
    V4,
    /// `dtype`, `rope_parameters`.
    V5,
}

/// The key under which Transformers keeps how weights are packed.
const QUANTISED: &str = "quantization_config";

impl ModelConfig {
    /// The file's dialect.
    pub fn dialect(&self) -> Dialect {
        let has = |key: &str| self.raw.contains_key(key);
        let old = has("torch_dtype") || has("rope_theta") || has("rope_scaling");
        if old && !has("rope_parameters") && !has("dtype") {
            Dialect::V4
        } else {
            Dialect::V5
        }
    }

    /// The same configuration for weights of dtype `kind`.
    #[must_use]
    pub fn with_dtype(mut self, kind: Kind) -> Self {
        let key = match self.dialect() {
            Dialect::V4 => "torch_dtype",
            Dialect::V5 => "dtype",
        };
        self.set(key, json!(dtype_name(kind)));
        self.dtype = Some(kind);
        self
    }

    /// The same configuration for an embedding of `vocab_size` rows.
    #[must_use]
    pub fn with_vocab_size(mut self, vocab_size: i64) -> Self {
        self.set("vocab_size", json!(vocab_size));
        self.vocab_size = vocab_size;
        self
    }

    /// The same configuration under another tying of the output layer.
    #[must_use]
    pub fn with_tied_embeddings(mut self, tied: bool) -> Self {
        self.set("tie_word_embeddings", json!(tied));
        self.tie_word_embeddings = tied;
        self
    }

    /// The same configuration for these of its blocks, in order.
    ///
    /// # Panics
    /// If one of them is not among its blocks.
    #[must_use]
    pub fn with_layers(mut self, kept: &[usize]) -> Self {
        self.layer_types = kept.iter().map(|&idx| self.layer_types[idx]).collect();
        self.num_hidden_layers = kept.len();
        // Without a layer that slides the window means nothing.
        self.sliding_window = self
            .sliding_window
            .filter(|_| self.layer_types.contains(&LayerKind::Sliding));
        self.set("num_hidden_layers", json!(kept.len()));
        // Families whose layers differ count them by a rule, which the ones that are left do not follow.
        let by_rule = matches!(self.family, Family::Qwen2 | Family::Qwen3 | Family::Gemma3);
        if by_rule || self.raw.contains_key("layer_types") {
            let names = self.layer_types.iter().map(|kind| match kind {
                LayerKind::Full => "full_attention",
                LayerKind::Sliding => "sliding_attention",
            });
            let names: Vec<&str> = names.collect();
            self.set("layer_types", json!(names));
        }
        self
    }

    /// The same configuration for feed-forward layers of another width.
    #[must_use]
    pub fn with_intermediate_size(mut self, intermediate_size: i64) -> Self {
        self.set("intermediate_size", json!(intermediate_size));
        self.intermediate_size = intermediate_size;
        self
    }

    /// The same configuration for other numbers of heads, each as wide as before.
    #[must_use]
    pub fn with_heads(mut self, num_attention_heads: i64, num_key_value_heads: i64) -> Self {
        self.set("num_attention_heads", json!(num_attention_heads));
        self.set("num_key_value_heads", json!(num_key_value_heads));
        // Where it does not stand, it is the width over the number of heads.
        self.set("head_dim", json!(self.head_dim));
        self.num_attention_heads = num_attention_heads;
        self.num_key_value_heads = num_key_value_heads;
        self
    }

    /// The same decoder with a classifier of these labels on top.
    #[must_use]
    pub fn with_labels(mut self, labels: Vec<String>) -> Self {
        let by_id: Map<String, Value> = labels
            .iter()
            .enumerate()
            .map(|(idx, label)| (idx.to_string(), json!(label)))
            .collect();
        let by_label: Map<String, Value> = labels
            .iter()
            .enumerate()
            .map(|(idx, label)| (label.clone(), json!(idx)))
            .collect();
        self.set(
            "architectures",
            json!([self.family.architecture(Output::SequenceClassifier)]),
        );
        self.set("id2label", Value::Object(by_id));
        self.set("label2id", Value::Object(by_label));
        self.raw.shift_remove("num_labels");
        self.output = Output::SequenceClassifier;
        self.labels = labels;
        self
    }

    /// The same decoder as a language model.
    #[must_use]
    pub fn as_language_model(mut self) -> Self {
        self.set(
            "architectures",
            json!([self.family.architecture(Output::LanguageModel)]),
        );
        for key in ["id2label", "label2id", "num_labels", "problem_type"] {
            self.raw.shift_remove(key);
        }
        self.output = Output::LanguageModel;
        self.labels.clear();
        self
    }

    /// Whether weights are in bitsandbytes' 4 bits.
    pub fn is_quantised(&self) -> bool {
        self.raw.contains_key(QUANTISED)
    }

    /// The same configuration for weights in bitsandbytes' 4 bits, computed with in `dtype`, but for modules `skip`.
    ///
    /// `skip` is none where Transformers leaves out by itself what it always does: the output layer.
    #[must_use]
    pub fn with_4_bits(mut self, code: PackedCode, nested: bool, dtype: Kind, skip: Option<&[String]>) -> Self {
        let config = json!({
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "bnb_4bit_compute_dtype": dtype_name(dtype),
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": code.name(),
            "bnb_4bit_use_double_quant": nested,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": skip,
            "llm_int8_threshold": 6.0,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "quant_method": "bitsandbytes",
        });
        self.set(QUANTISED, config);
        self
    }

    /// The same configuration for dense weights.
    #[must_use]
    pub fn without_quantisation(mut self) -> Self {
        self.raw.shift_remove(QUANTISED);
        self
    }

    /// The `config.json` as it is kept.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// The `config.json` as text.
    pub fn to_json(&self) -> String {
        let mut text = python_json::to_string(&self.raw);
        text.push('\n');
        text
    }

    /// Takes in the end tokens that another place names.
    #[must_use]
    pub fn with_end_tokens(mut self, ids: impl IntoIterator<Item = i64>) -> Self {
        for id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        self
    }

    /// The same configuration with these end tokens written in its file.
    #[must_use]
    pub fn with_written_end_tokens(mut self, ids: &[i64]) -> Self {
        self.set("eos_token_id", ids_as_json(ids));
        self.eos_token_ids = ids.to_vec();
        self
    }

    /// Sets a key; a new one goes where a sorted file would have it.
    pub(super) fn set(&mut self, key: &str, value: Value) {
        if let Some(old) = self.raw.get_mut(key) {
            *old = value;
            return;
        }
        let sorted = self.raw.keys().is_sorted();
        let at = match sorted {
            true => self.raw.keys().take_while(|other| other.as_str() < key).count(),
            false => self.raw.len(),
        };
        self.raw.shift_insert(at, key.to_owned(), value);
    }
}

/// One id bare, several as a list, as Transformers writes them.
pub(crate) fn ids_as_json(ids: &[i64]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => json!(id),
        ids => json!(ids),
    }
}

fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        Kind::Double => "float64",
        _ => "float32",
    }
}
