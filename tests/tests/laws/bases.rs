//! Tiny random models to train over: hidden width 32, two layers, the 311 tokens of the golden vectors' tokenizer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// How a base's weights are held while an adapter trains over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Precision {
    /// f32 in the files and in memory.
    F32,
    /// bf16 in the files and in memory.
    Bf16,
    /// bf16 in the files, packed to NF4 by the recipe.
    Nf4,
    /// f32 in the files, packed to FP4 by the recipe.
    Fp4,
    /// f32 in the files, packed to int8 by the recipe.
    Int8,
    /// NF4 in the files.
    Nf4File,
}

impl Precision {
    pub(crate) const ALL: [Self; 6] = [Self::F32, Self::Bf16, Self::Nf4, Self::Fp4, Self::Int8, Self::Nf4File];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Nf4 => "NF4",
            Self::Fp4 => "FP4",
            Self::Int8 => "int8",
            Self::Nf4File => "NF4 file",
        }
    }

    /// What is computed in; the dtype of the dense files.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Bf16 | Self::Nf4 => Kind::BFloat16,
            _ => Kind::Float,
        }
    }

    /// The recipe's first surgery, where it packs.
    pub(crate) fn surgery(self) -> Option<&'static str> {
        match self {
            Self::F32 | Self::Bf16 | Self::Nf4File => None,
            Self::Nf4 => Some("kind = \"quantize\"\nscheme = \"nf4\"\ndouble_quant = true"),
            Self::Fp4 => Some("kind = \"quantize\"\nscheme = \"fp4\"\nblock_size = 64"),
            Self::Int8 => Some("kind = \"quantize\"\nscheme = \"int8\""),
        }
    }
}

/// What the weights of a base are like, besides their precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stock {
    /// Plain feed-forwards.
    Dense,
    /// Plain feed-forwards with half of each matrix zero.
    Pruned,
    /// A mixture of experts in each layer.
    Experts,
}

/// A model to train over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) precision: Precision,
    pub(crate) stock: Stock,
    /// Whether the head is the token table.
    pub(crate) tied: bool,
    /// Whether queries, keys and values have biases: Qwen 2's, instead of Llama's without.
    pub(crate) biases: bool,
}

impl Base {
    pub(crate) fn name(self) -> String {
        let tied = if self.tied { "tied" } else { "untied" };
        let biases = if self.biases { "biases" } else { "no biases" };
        format!("{}, {tied}, {biases}", self.precision.name())
    }

    /// Where the model lies; the first to ask writes it.
    pub(crate) fn write(self) -> Result<PathBuf> {
        static WRITING: Mutex<()> = Mutex::new(());
        let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let room = super::run::room().join("models");
        let dense = room.join(format!(
            "{:?}-{}-{}-{:?}",
            self.stock,
            self.tied,
            self.biases,
            self.precision.kind()
        ));
        if !dense.join("model.safetensors").is_file() {
            self.write_dense(&dense)?;
        }
        if self.precision != Precision::Nf4File {
            return Ok(dense);
        }
        let packed = room.join(format!("{:?}-{}-{}-packed", self.stock, self.tied, self.biases));
        if !packed.join("model.safetensors").is_file() {
            let (from, to) = (dense.display().to_string(), packed.display().to_string());
            super::run::verb(&["quantize", "--model", &from, "--scheme", "nf4", "--output", &to])?;
        }
        Ok(packed)
    }

    fn write_dense(self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let tokens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/golden/vectors/gguf/tiny");
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            fs::write(folder.join(name), fs::read(tokens.join(name))?)?;
        }
        let config = serde_json::to_string_pretty(&self.config())?;
        fs::write(folder.join("config.json"), config)?;
        let tensors = self.tensors();
        let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        checkpoint::write_tensors(&folder.join("model.safetensors"), named).context("a tiny model")?;
        Ok(())
    }

    fn config(self) -> Value {
        let (class, model_type) = match (self.stock, self.biases) {
            (Stock::Experts, false) => ("MixtralForCausalLM", "mixtral"),
            (Stock::Experts, true) => ("Qwen2MoeForCausalLM", "qwen2_moe"),
            (_, false) => ("LlamaForCausalLM", "llama"),
            (_, true) => ("Qwen2ForCausalLM", "qwen2"),
        };
        let dtype = if self.precision.kind() == Kind::BFloat16 {
            "bfloat16"
        } else {
            "float32"
        };
        let mut config = json!({
            "architectures": [class], "model_type": model_type, "torch_dtype": dtype, "vocab_size": VOCABULARY,
            "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "tie_word_embeddings": self.tied, "bos_token_id": 1, "eos_token_id": 2,
        });
        let more = match (self.stock, self.biases) {
            (Stock::Experts, false) => json!({"num_local_experts": EXPERTS, "num_experts_per_tok": 2}),
            (Stock::Experts, true) => json!({
                "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": INNER,
                "shared_expert_intermediate_size": INNER, "decoder_sparse_step": 1, "norm_topk_prob": true,
            }),
            _ => json!({}),
        };
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    fn tensors(self) -> Vec<(String, Tensor)> {
        let mut shapes: Vec<(String, Vec<i64>)> = vec![("model.embed_tokens.weight".into(), vec![VOCABULARY, WIDTH])];
        for layer in 0..LAYERS {
            let mut add =
                |name: &str, shape: &[i64]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            for (name, out, input) in [
                ("q", WIDTH, WIDTH),
                ("k", WIDTH / 2, WIDTH),
                ("v", WIDTH / 2, WIDTH),
                ("o", WIDTH, WIDTH),
            ] {
                add(&format!("self_attn.{name}_proj.weight"), &[out, input]);
                if self.biases && name != "o" {
                    add(&format!("self_attn.{name}_proj.bias"), &[out]);
                }
            }
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                add(&format!("{norm}.weight"), &[WIDTH]);
            }
            let mut feed_forward = |at: &str, [gate, up, down]: [&str; 3]| {
                add(&format!("{at}.{gate}.weight"), &[INNER, WIDTH]);
                add(&format!("{at}.{up}.weight"), &[INNER, WIDTH]);
                add(&format!("{at}.{down}.weight"), &[WIDTH, INNER]);
            };
            let plain = ["gate_proj", "up_proj", "down_proj"];
            match (self.stock, self.biases) {
                (Stock::Experts, false) => {
                    for expert in 0..EXPERTS {
                        feed_forward(&format!("block_sparse_moe.experts.{expert}"), ["w1", "w3", "w2"]);
                    }
                    add("block_sparse_moe.gate.weight", &[EXPERTS, WIDTH]);
                }
                (Stock::Experts, true) => {
                    for expert in 0..EXPERTS {
                        feed_forward(&format!("mlp.experts.{expert}"), plain);
                    }
                    feed_forward("mlp.shared_expert", plain);
                    add("mlp.gate.weight", &[EXPERTS, WIDTH]);
                    add("mlp.shared_expert_gate.weight", &[1, WIDTH]);
                }
                _ => feed_forward("mlp", plain),
            }
        }
        shapes.push(("model.norm.weight".into(), vec![WIDTH]));
        if !self.tied {
            shapes.push(("lm_head.weight".into(), vec![VOCABULARY, WIDTH]));
        }
        let mut numbers = Numbers(7);
        let tensors = shapes.into_iter().map(|(name, shape)| {
            let is_pruned = self.stock == Stock::Pruned && name.contains("layers") && shape.len() == 2;
            let tensor = numbers.tensor(&shape, name.contains("norm"), is_pruned);
            (name, tensor.to_kind(self.precision.kind()))
        });
        tensors.collect()
    }
}

/// Rows of the tokenizer's vocabulary, and one more so that blocks of numbers do not end where rows do.
pub(crate) const VOCABULARY: i64 = 312;
const WIDTH: i64 = 32;
const INNER: i64 = 64;
const LAYERS: i64 = 2;
const EXPERTS: i64 = 3;

/// The same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    /// Uniform in ±1.
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    fn tensor(&mut self, shape: &[i64], is_norm: bool, is_pruned: bool) -> Tensor {
        let count: i64 = shape.iter().product();
        let (middle, width) = if is_norm { (1.0, 0.1) } else { (0.0, 0.15) };
        let values: Vec<f32> = (0..count)
            .map(|_| {
                let (value, kept) = (self.next(), self.next() > 0.0);
                if is_pruned && !kept {
                    0.0
                } else {
                    (middle + width * value) as f32
                }
            })
            .collect();
        Tensor::from_slice(&values).reshape(shape)
    }
}
