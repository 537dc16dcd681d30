//! Which tensors a checkpoint of a configuration holds, with their shapes.

use super::{ExpertsConfig, ModelConfig, Output};

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
            match self.experts_of(idx) {
                None => gated("mlp", ["gate_proj", "up_proj", "down_proj"], ff, d)
                    .for_each(|(name, [out, input])| linear(&name, out, input, self.mlp_bias)),
                Some(experts) => mixture(experts, d)
                    .into_iter()
                    .for_each(|(name, [out, input])| linear(&name, out, input, false)),
            }
            if self.experts_of(idx).is_some_and(|experts| experts.has_bias) {
                let experts = self.experts.as_ref().map_or(0, |experts| experts.num_experts);
                let name = format!("{at}.{}.gate.e_score_correction_bias", self.feed_forward_name(idx));
                all.push((name, vec![experts]));
            }
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

/// Gate, up and down of a feed-forward of width `ff` at `at`.
fn gated(at: &str, names: [&str; 3], ff: i64, d: i64) -> impl Iterator<Item = (String, [i64; 2])> {
    let shapes = [[ff, d], [ff, d], [d, ff]];
    names.map(|name| format!("{at}.{name}")).into_iter().zip(shapes)
}

/// The matrices of a mixture of experts: router, experts, the shared one and its gate.
fn mixture(experts: &ExpertsConfig, d: i64) -> Vec<(String, [i64; 2])> {
    let (at, names) = (experts.names.sublayer(), experts.names.projections());
    let mut all = vec![(format!("{at}.gate"), [experts.num_experts, d])];
    for idx in 0..experts.num_experts {
        all.extend(gated(
            &format!("{at}.experts.{idx}"),
            names,
            experts.intermediate_size,
            d,
        ));
    }
    if let Some(width) = experts.shared_intermediate_size {
        all.extend(gated(&format!("{at}.shared_expert"), names, width, d));
        all.push((format!("{at}.shared_expert_gate"), [1, d]));
    }
    all
}
