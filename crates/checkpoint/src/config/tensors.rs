//! Which tensors a checkpoint of a configuration holds, with their shapes.

use super::{ModelConfig, Output};

impl ModelConfig {
    /// Name and shape of every tensor, in the model's order. A tied output layer is not among them.
    pub fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let d = self.hidden_size;
        let ff = self.intermediate_size;
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d])];
        for idx in 0..self.num_hidden_layers {
            let at = format!("model.layers.{idx}");
            let mut linear = |name: &str, out: i64, input: i64, bias: bool| {
                all.push((format!("{at}.{name}.weight"), vec![out, input]));
                if bias {
                    all.push((format!("{at}.{name}.bias"), vec![out]));
                }
            };
            linear("self_attn.q_proj", q, d, self.qkv_bias);
            linear("self_attn.k_proj", kv, d, self.qkv_bias);
            linear("self_attn.v_proj", kv, d, self.qkv_bias);
            linear("self_attn.o_proj", d, q, self.o_bias);
            linear("mlp.gate_proj", ff, d, self.mlp_bias);
            linear("mlp.up_proj", ff, d, self.mlp_bias);
            linear("mlp.down_proj", d, ff, self.mlp_bias);
            let mut norm = |name: &str, width: i64| all.push((format!("{at}.{name}.weight"), vec![width]));
            if self.qk_norm {
                norm("self_attn.q_norm", self.head_dim);
                norm("self_attn.k_norm", self.head_dim);
            }
            norm("input_layernorm", d);
            norm("post_attention_layernorm", d);
            if self.post_norms {
                norm("pre_feedforward_layernorm", d);
                norm("post_feedforward_layernorm", d);
            }
        }
        all.push(("model.norm.weight".into(), vec![d]));
        match self.output {
            Output::LanguageModel if self.tie_word_embeddings => {}
            Output::LanguageModel => all.push(("lm_head.weight".into(), vec![self.vocab_size, d])),
            Output::SequenceClassifier => all.push(("score.weight".into(), vec![self.num_labels(), d])),
        }
        all
    }

    /// How many numbers the checkpoint holds.
    pub fn num_parameters(&self) -> u64 {
        self.tensors()
            .iter()
            .map(|(_, shape)| shape.iter().product::<i64>() as u64)
            .sum()
    }
}
