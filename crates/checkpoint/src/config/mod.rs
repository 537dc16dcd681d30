//! `config.json` of both generations, as one plain description of a decoder.
//!
//! Defaults are those of Transformers 5.23's configuration classes. The JSON itself is kept, so that saving writes
//! the same dialect back with only what changed.

mod edit;
mod experts;
mod fields;
mod layers;
mod parse;
mod rope;
mod tensors;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::Kind;

use crate::Result;

pub use edit::Dialect;
pub(crate) use edit::ids_as_json;
pub use experts::{ExpertNames, ExpertsConfig};
pub use rope::{Rope, RopeScaling};

/// A family of decoders: which network the numbers describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 1 to 3, SmolLM, and everything that is stored as one.
    Llama,
    /// Llama with a sliding window.
    Mistral,
    /// Llama with biases on q, k and v: Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 2 with normed queries and keys instead of biases.
    Qwen3,
    /// Gemma 3, text only: four norms a block, two RoPEs, scaled embeddings.
    Gemma3,
    /// Mistral whose feed-forwards are mixtures of experts.
    Mixtral,
    /// Qwen 2 with mixtures of experts, one of which every token goes to.
    Qwen2Moe,
    /// Qwen 3 with mixtures of experts.
    Qwen3Moe,
}

/// What stands on top of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Next-token logits.
    LanguageModel,
    /// A class for the whole sequence, or one scalar.
    SequenceClassifier,
}

/// The nonlinearity of the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

/// How far a layer's attention sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Every earlier token.
    Full,
    /// The last `sliding_window` tokens, itself included.
    Sliding,
}

/// A decoder, described. Sizes are as they stand in tensor shapes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of `config.json` of its own")]
pub struct ModelConfig {
    /// Which network.
    pub family: Family,
    /// What stands on top.
    pub output: Output,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the feed-forward layers.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads, which divide the query heads.
    pub num_key_value_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Longest sequence that the model was made for, in tokens.
    pub max_position_embeddings: i64,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// The feed-forward nonlinearity.
    pub hidden_act: Activation,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the three feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normed, head by head.
    pub qk_norm: bool,
    /// Whether norms follow attention and feed-forward too.
    pub post_norms: bool,
    /// What is added to every norm's stored weight: 1 for Gemma, else 0.
    pub norm_offset: f64,
    /// What embeddings are multiplied by; Transformers rounds it to the model's dtype first.
    pub embedding_scale: Option<f64>,
    /// What attention scores are multiplied by.
    pub attention_scale: f64,
    /// The mixtures of experts; none in a dense model.
    pub experts: Option<ExpertsConfig>,
    /// Each layer's reach.
    pub layer_types: Vec<LayerKind>,
    /// Tokens that a sliding layer sees, itself included; none if no layer slides.
    pub sliding_window: Option<i64>,
    /// Positions in layers that see everything.
    pub rope: Rope,
    /// Positions in layers that slide.
    pub rope_sliding: Rope,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Begin of text.
    pub bos_token_id: Option<i64>,
    /// All tokens that end a text: those of `config.json` and `generation_config.json`.
    pub eos_token_ids: Vec<i64>,
    /// Padding, where a token is set aside for it.
    pub pad_token_id: Option<i64>,
    /// The classes' names, in order; empty for a language model.
    pub labels: Vec<String>,
    /// The dtype that the file names.
    pub dtype: Option<Kind>,
    /// Whether this is the text model of a multimodal one, whose modules Transformers finds below `model.language_model`.
    pub is_of_multimodal: bool,
    path: PathBuf,
    raw: Map<String, Value>,
}

/// The token ids under `key` of a file's object: one, a list, or none.
pub(crate) fn token_ids(path: &Path, object: &Map<String, Value>, key: &str) -> Result<Vec<i64>> {
    let fields = fields::Fields {
        path,
        object,
        prefix: "",
    };
    fields.tokens(key, &[])
}

impl ModelConfig {
    /// The most positions that a sequence may have: those it was made for, times what its RoPE is stretched by where
    /// `max_position_embeddings` is the length before that.
    ///
    /// Transformers wants `max_position_embeddings` unchanged beside `linear` and `yarn`; Llama 3 and Gemma 3 count it
    /// after the stretch.
    pub fn max_positions(&self) -> i64 {
        let written = self.max_position_embeddings;
        let stretched = match (&self.rope.scaling, self.family) {
            (RopeScaling::Linear { factor }, family) if family != Family::Gemma3 => written as f64 * factor,
            (
                RopeScaling::Yarn {
                    factor,
                    original_max_position_embeddings,
                    ..
                },
                _,
            ) => original_max_position_embeddings * factor,
            _ => 0.0,
        };
        written.max(stretched as i64)
    }

    /// The RoPE of layers of this kind.
    pub fn rope_of(&self, kind: LayerKind) -> &Rope {
        match kind {
            LayerKind::Full => &self.rope,
            LayerKind::Sliding => &self.rope_sliding,
        }
    }

    /// The experts of layer `idx`, if it has any.
    pub fn experts_of(&self, idx: usize) -> Option<&ExpertsConfig> {
        self.experts
            .as_ref()
            .filter(|experts| experts.layers.get(idx).copied().unwrap_or(false))
    }

    /// What the feed-forward of layer `idx` is called within its block: `mlp`, or `block_sparse_moe`.
    pub fn feed_forward_name(&self, idx: usize) -> &'static str {
        self.experts_of(idx).map_or("mlp", |experts| experts.names.sublayer())
    }

    /// How many numbers a classifier gives; 0 for a language model.
    pub fn num_labels(&self) -> i64 {
        self.labels.len() as i64
    }
}

impl Family {
    /// All families.
    pub const ALL: [Self; 8] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma3,
        Self::Mixtral,
        Self::Qwen2Moe,
        Self::Qwen3Moe,
    ];

    /// The name that architectures begin with: `Llama` of `LlamaForCausalLM`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
            Self::Gemma3 => "Gemma3",
            Self::Mixtral => "Mixtral",
            Self::Qwen2Moe => "Qwen2Moe",
            Self::Qwen3Moe => "Qwen3Moe",
        }
    }

    /// The `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
            Self::Mixtral => "mixtral",
            Self::Qwen2Moe => "qwen2_moe",
            Self::Qwen3Moe => "qwen3_moe",
        }
    }

    /// The `architectures` entry of this family under `output`.
    pub fn architecture(self, output: Output) -> String {
        match (self, output) {
            (family, Output::LanguageModel) => format!("{}ForCausalLM", family.name()),
            (Self::Gemma3, Output::SequenceClassifier) => "Gemma3TextForSequenceClassification".into(),
            (family, Output::SequenceClassifier) => format!("{}ForSequenceClassification", family.name()),
        }
    }
}
