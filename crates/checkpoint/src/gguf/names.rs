//! GGUF tensor names as Transformers calls them, and what llama.cpp's converter did to the numbers.

use std::path::Path;

use crate::config::{Family, ModelConfig};
use crate::{Error, Result};

/// What must be undone to get Transformers' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Nothing.
    Plain,
    /// Rows of each head go in pairs, for rotations of neighbours; Transformers rotates halves.
    Pairs {
        /// Heads in the matrix.
        heads: i64,
    },
    /// 1 was added.
    PlusOne,
}

impl Layout {
    /// For each row of Transformers' matrix, the file's row.
    pub(super) fn row_order(self, shape: &[i64], path: &Path, name: &str) -> Result<Option<Vec<usize>>> {
        let Self::Pairs { heads } = self else {
            return Ok(None);
        };
        let (rows, heads) = (shape[0] as usize, heads as usize);
        if !rows.is_multiple_of(2 * heads) {
            return Err(Error::Broken {
                path: path.to_owned(),
                format: "GGUF file",
                at: format!("tensor `{name}`"),
                wanted: format!("rows for {heads} heads of even width"),
                found: format!("{rows} rows"),
            });
        }
        let half = rows / heads / 2;
        let order = (0..rows).map(|row| {
            let (head, side, pair) = (row / (2 * half), row / half % 2, row % half);
            head * 2 * half + 2 * pair + side
        });
        Ok(Some(order.collect()))
    }
}

/// Name in Transformers of the tensor `name`, and what to undo; none for a tensor that has no counterpart.
pub(crate) fn hugging_face(name: &str, config: &ModelConfig) -> Option<(String, Layout)> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let gemma = config.family == Family::Gemma3;
    let norm = if gemma { Layout::PlusOne } else { Layout::Plain };
    // llama.cpp runs these by rotating neighbours, so its converter reorders rows, biases included.
    let paired = matches!(config.family, Family::Llama | Family::Mistral);
    let pairs = |heads| if paired { Layout::Pairs { heads } } else { Layout::Plain };
    let (module, layout) = match stem {
        "token_embd" => ("model.embed_tokens".to_owned(), Layout::Plain),
        "output_norm" => ("model.norm".to_owned(), norm),
        "output" => ("lm_head".to_owned(), Layout::Plain),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            layer.parse::<usize>().ok()?;
            let (module, layout) = match part {
                "attn_q" => ("self_attn.q_proj", pairs(config.num_attention_heads)),
                "attn_k" => ("self_attn.k_proj", pairs(config.num_key_value_heads)),
                "attn_v" => ("self_attn.v_proj", Layout::Plain),
                "attn_output" => ("self_attn.o_proj", Layout::Plain),
                "attn_q_norm" => ("self_attn.q_norm", norm),
                "attn_k_norm" => ("self_attn.k_norm", norm),
                "ffn_gate" => ("mlp.gate_proj", Layout::Plain),
                "ffn_up" => ("mlp.up_proj", Layout::Plain),
                "ffn_down" => ("mlp.down_proj", Layout::Plain),
                "attn_norm" => ("input_layernorm", norm),
                "ffn_norm" if gemma => ("pre_feedforward_layernorm", norm),
                "ffn_norm" | "post_attention_norm" => ("post_attention_layernorm", norm),
                "post_ffw_norm" => ("post_feedforward_layernorm", norm),
                _ => return None,
            };
            (format!("model.layers.{layer}.{module}"), layout)
        }
    };
    Some((format!("{module}.{suffix}"), layout))
}
