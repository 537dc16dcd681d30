//! Changing a configuration and writing it back in the dialect that it came in.

use serde_json::{Map, Value, json};
use tch::Kind;

use super::{ModelConfig, Output};
use crate::python_json;

/// The generation of Transformers whose words a `config.json` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `torch_dtype`, `rope_theta`, `rope_scaling`.
    V4,
    /// `dtype`, `rope_parameters`.
    V5,
}

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
        let name = match kind {
            Kind::Half => "float16",
            Kind::BFloat16 => "bfloat16",
            Kind::Double => "float64",
            _ => "float32",
        };
        let key = match self.dialect() {
            Dialect::V4 => "torch_dtype",
            Dialect::V5 => "dtype",
        };
        self.set(key, json!(name));
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

    /// Takes in the end tokens of a `generation_config.json`.
    pub(crate) fn add_eos(&mut self, generation: &Map<String, Value>) {
        let ids = match generation.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_i64).collect(),
            Some(id) => id.as_i64().into_iter().collect(),
            None => Vec::new(),
        };
        for id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
    }

    /// Sets a key; a new one goes where a sorted file would have it.
    fn set(&mut self, key: &str, value: Value) {
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
