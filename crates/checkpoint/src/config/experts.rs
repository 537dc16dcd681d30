//! Mixtures of experts in a configuration: how many, how wide, in which layers, and how tokens are given to them.

use serde_json::{Value, json};

use super::fields::Fields;
use super::{Family, LayerKind, ModelConfig, Output};
use crate::{Error, Result};

/// What a family's checkpoints call the parts of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertNames {
    /// `block_sparse_moe.experts.N.{w1,w3,w2}`.
    Mixtral,
    /// `mlp.experts.N.{gate_proj,up_proj,down_proj}`.
    Qwen,
}

impl ExpertNames {
    /// What a mixture is called within its block.
    pub fn sublayer(self) -> &'static str {
        match self {
            Self::Mixtral => "block_sparse_moe",
            Self::Qwen => "mlp",
        }
    }

    /// Gate, up and down of an expert.
    pub fn projections(self) -> [&'static str; 3] {
        match self {
            Self::Mixtral => ["w1", "w3", "w2"],
            Self::Qwen => ["gate_proj", "up_proj", "down_proj"],
        }
    }
}

/// A model's mixtures of experts; all layers that have one are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsConfig {
    /// What its parts are called.
    pub names: ExpertNames,
    /// Experts a layer.
    pub num_experts: i64,
    /// Experts a token.
    pub num_experts_per_tok: i64,
    /// Whether the weights of a token's experts sum to 1.
    pub norm_topk_prob: bool,
    /// Width inside an expert.
    pub intermediate_size: i64,
    /// Width inside the expert that every token goes to; none without one.
    pub shared_intermediate_size: Option<i64>,
    /// Coefficient of the balance loss while training.
    pub router_aux_loss_coef: f64,
    /// Noise on the router's input while training.
    pub router_jitter_noise: f64,
    /// Whether routers have a bias for choosing, `gate.e_score_correction_bias`; Transformers does not read it.
    pub has_bias: bool,
    /// Which layers are mixtures.
    pub layers: Vec<bool>,
}

/// The key that says whether routers have a bias: no family of Transformers has it.
const BIAS: &str = "router_bias";

/// Experts of all layers together at most: the largest published mixtures have some 25,000.
const MOST_EXPERTS: i64 = 1 << 17;

pub(super) fn read(fields: Fields<'_>, family: Family, layers: usize, dense: i64) -> Result<Option<ExpertsConfig>> {
    // Number, a token, inner width, shared width.
    let (names, defaults) = match family {
        Family::Mixtral => (ExpertNames::Mixtral, [8, 2, dense, 0]),
        Family::Qwen2Moe => (ExpertNames::Qwen, [60, 4, 1408, 5632]),
        Family::Qwen3Moe => (ExpertNames::Qwen, [128, 8, 768, 0]),
        _ => return Ok(None),
    };
    let [num, per_tok, inner, shared] = defaults;
    let key = match fields.get("num_local_experts") {
        Some(_) => "num_local_experts",
        None => "num_experts",
    };
    let num_experts = fields.few_or(key, MOST_EXPERTS / layers.max(1) as i64, num)?;
    let num_experts_per_tok = fields.count_or("num_experts_per_tok", per_tok)?;
    if num_experts_per_tok > num_experts {
        let wanted = format!("at most the {num_experts} experts there are");
        return Err(fields.wrong("num_experts_per_tok", &wanted, &num_experts_per_tok.to_string()));
    }
    let mixtral = names == ExpertNames::Mixtral;
    let dense_layers = fields.tokens("mlp_only_layers", &[])?;
    let step = fields.count_or("decoder_sparse_step", 1)? as usize;
    let is_sparse = |idx: usize| mixtral || ((idx + 1).is_multiple_of(step) && !dense_layers.contains(&(idx as i64)));
    Ok(Some(ExpertsConfig {
        names,
        num_experts,
        num_experts_per_tok,
        norm_topk_prob: mixtral || fields.flag("norm_topk_prob")?,
        intermediate_size: match mixtral {
            true => dense,
            false => fields.count_or("moe_intermediate_size", inner)?,
        },
        shared_intermediate_size: match family {
            Family::Qwen2Moe => Some(fields.count_or("shared_expert_intermediate_size", shared)?),
            _ => None,
        },
        router_aux_loss_coef: fields.number("router_aux_loss_coef")?.unwrap_or(0.001),
        router_jitter_noise: fields.number("router_jitter_noise")?.unwrap_or(0.0),
        has_bias: fields.flag(BIAS)?,
        layers: (0..layers).map(is_sparse).collect(),
    }))
}

impl ModelConfig {
    /// The configuration of this dense model with `num_experts` experts of its own inner width in every layer, of which
    /// each token goes to `num_experts_per_tok`: a Mixtral.
    ///
    /// Errors: a family whose blocks are not Mixtral's.
    pub fn with_experts(mut self, num_experts: i64, num_experts_per_tok: i64) -> Result<Self> {
        let refuse = |what: String, hint: &str| {
            Err(Error::Unsupported {
                path: self.path.clone(),
                what,
                hint: hint.to_owned(),
            })
        };
        if !matches!(self.family, Family::Llama | Family::Mistral) {
            let what = format!("a {} with experts", self.family.name());
            return refuse(what, "Llama and Mistral models can be given experts, as Mixtral");
        }
        if self.qkv_bias || self.o_bias || self.mlp_bias {
            return refuse("experts in a model with biases".into(), "Mixtral has none");
        }
        if self.output != Output::LanguageModel && self.labels.is_empty() {
            return refuse(
                "experts under this output layer".into(),
                "language models and classifiers are",
            );
        }
        let window = self
            .sliding_window
            .filter(|_| self.layer_types.contains(&LayerKind::Sliding));
        self.family = Family::Mixtral;
        self.set("architectures", json!([self.family.architecture(self.output)]));
        self.set("model_type", json!(self.family.model_type()));
        self.set("num_local_experts", json!(num_experts));
        self.set("num_experts_per_tok", json!(num_experts_per_tok));
        self.set("sliding_window", window.map_or(Value::Null, |window| json!(window)));
        // What Llama leaves to its own defaults, Mixtral's are others.
        self.set("rms_norm_eps", json!(self.rms_norm_eps));
        self.set("max_position_embeddings", json!(self.max_position_embeddings));
        self.set("num_key_value_heads", json!(self.num_key_value_heads));
        self.set("intermediate_size", json!(self.intermediate_size));
        if !self.raw.contains_key("rope_parameters") {
            self.set("rope_theta", json!(self.rope.theta));
        }
        for key in ["attention_bias", "mlp_bias", "pretraining_tp", "layer_types"] {
            self.raw.shift_remove(key);
        }
        // Read again, so that what is written means the same.
        let (path, raw) = (self.path.clone(), self.raw);
        Self::from_object(&path, raw)
    }

    /// Whether the tensor of this name chooses among experts: a router's matrix or bias, or a shared expert's gate.
    pub fn is_router(&self, tensor: &str) -> bool {
        const PARTS: [&str; 3] = [
            ".gate.weight",
            ".shared_expert_gate.weight",
            ".gate.e_score_correction_bias",
        ];
        self.experts.is_some() && PARTS.iter().any(|part| tensor.ends_with(part))
    }

    /// The same configuration for a model whose routers have a bias for choosing.
    #[must_use]
    pub fn with_router_bias(mut self) -> Self {
        self.set(BIAS, json!(true));
        if let Some(experts) = &mut self.experts {
            experts.has_bias = true;
        }
        self
    }

    /// The same configuration with so many experts a layer.
    #[must_use]
    pub fn with_num_experts(mut self, num_experts: i64) -> Self {
        let key = match self.raw.contains_key("num_experts") {
            true => "num_experts",
            false => "num_local_experts",
        };
        self.set(key, json!(num_experts));
        if let Some(experts) = &mut self.experts {
            experts.num_experts = num_experts;
        }
        self
    }
}
