//! Peak memory of a run, part by part, from shapes alone.
//!
//! Shapes: t tokens of the longest row, d model width, v vocabulary.

use anyhow::Result;
use checkpoint::{ModelConfig, Output};
use events::Events;
use methods::recipe::{ObjectiveConfig, Recipe};
use methods::{Adaptation as _, Cost, ModelShape, Packed};
use models::Source;
use models::machine::Machine;
use quant::QuantizeConfig;
use serde_json::Value;
use session::training::reference;
use train::GradientCheckpointing;

use crate::object;

/// What the estimates need of a model.
pub(crate) struct Model {
    pub(crate) hidden: f64,
    pub(crate) intermediate: f64,
    pub(crate) layers: usize,
    /// Numbers of the base.
    pub(crate) base: f64,
    /// Numbers of the base's matrices, embedding and head left out: what a token is multiplied by.
    pub(crate) matrices: f64,
    /// Numbers of the head.
    pub(crate) head: f64,
    /// Numbers that train beside the base.
    pub(crate) added: f64,
    /// Numbers of the base that train.
    pub(crate) unfrozen: f64,
    /// What is packed of the base.
    packed: Packed,
    /// Numbers of the model that is learnt from or compared with, where it is a second one.
    beside: f64,
}

impl Model {
    /// Counts from shapes, by what each of the recipe's methods says that it costs.
    pub(crate) fn of(
        config: &ModelConfig,
        recipe: &Recipe,
        (labels, learnt_tokens): (Option<&[String]>, usize),
        events: &Events,
    ) -> Result<Self> {
        let mut config = config.clone();
        if let Some(labels) = labels {
            config = config.with_labels(labels.to_vec());
        }
        for surgery in &recipe.surgery {
            config = surgery.configuration(config)?;
        }
        let size = |shape: &[i64]| shape.iter().product::<i64>() as f64;
        let tensors = config.tensors();
        // A token meets its own experts alone.
        let (active, experts_width) = match &config.experts {
            None => (1.0, config.intermediate_size),
            Some(experts) => (
                experts.num_experts_per_tok as f64 / experts.num_experts as f64,
                experts.intermediate_size * experts.num_experts_per_tok + experts.shared_intermediate_size.unwrap_or(0),
            ),
        };
        let is_end = |name: &str| {
            name.starts_with("model.embed_tokens") || name.starts_with("lm_head") || name.starts_with("score")
        };
        let mut model = Self {
            hidden: config.hidden_size as f64,
            intermediate: experts_width as f64,
            layers: config.num_hidden_layers,
            base: tensors.iter().map(|(_, shape)| size(shape)).sum(),
            matrices: tensors
                .iter()
                .filter(|(name, shape)| shape.len() == 2 && !is_end(name))
                .map(|(name, shape)| size(shape) * if name.contains(".experts.") { active } else { 1.0 })
                .sum(),
            head: match (config.output, labels) {
                (Output::LanguageModel, _) => (config.vocab_size * config.hidden_size) as f64,
                (_, labels) => (labels.map_or(1, <[String]>::len) * config.hidden_size as usize) as f64,
            },
            added: 0.0,
            unfrozen: 0.0,
            packed: Packed::default(),
            beside: 0.0,
        };
        model.beside = second_model(recipe, model.base, events)?;
        let shape = ModelShape {
            config: &config,
            tensors: &tensors,
            learnt_tokens,
        };
        let mut cost = Cost::default();
        if config.is_quantised() {
            // The files say more exactly how; in the usual form this is what they take.
            cost += QuantizeConfig::default().cost(&shape)?;
        }
        if labels.is_some() {
            cost.unfrozen += model.head;
        }
        for surgery in &recipe.surgery {
            cost += surgery.cost(&shape)?;
        }
        (model.added, model.unfrozen, model.packed) = (cost.added, cost.unfrozen, cost.packed);
        model.unfrozen = model.unfrozen.min(model.base);
        Ok(model)
    }

    /// Numbers that train.
    pub(crate) fn trainable(&self) -> f64 {
        self.added + self.unfrozen
    }
}

/// Numbers of a second model that is kept beside the one that trains: a teacher, or a copy as the reference.
fn second_model(recipe: &Recipe, base: f64, events: &Events) -> Result<f64> {
    let has_copy = match &recipe.objective {
        ObjectiveConfig::Distill(distill) => {
            return Ok(Source::open(&distill.teacher, events)?.dir().config().num_parameters() as f64);
        }
        // Known numbers are computed before the first step, and the copy is let go.
        ObjectiveConfig::Dpo(config) => config.needs_reference() && !config.precompute_ref_log_probs,
        ObjectiveConfig::Kto(_) | ObjectiveConfig::Ppo(_) => true,
        ObjectiveConfig::Grpo(config) => config.beta > 0.0,
        _ => false,
    };
    Ok(if has_copy && reference::is_copy(recipe) {
        base
    } else {
        0.0
    })
}

/// Bytes by part.
#[derive(Debug)]
pub struct Memory {
    parts: Vec<(&'static str, f64)>,
    layers: usize,
    recomputed: usize,
}

/// What the process holds before it has a model: libtorch's code and pools, the tokenizer.
const PROCESS: f64 = 0.19e9;
/// Values that a block leaves for each token: so many model widths and feed-forward widths.
const WIDTHS: (f64, f64) = (9.0, 4.0);

/// The peak of a run whose longest row has `t` tokens.
pub(crate) fn estimate(model: &Model, recipe: &Recipe, machine: Machine, t: usize) -> Memory {
    let bytes = machine.kind.elt_size_in_bytes() as f64;
    let tokens = t as f64;
    let block = tokens * (WIDTHS.0 * model.hidden + WIDTHS.1 * model.intermediate) * bytes;
    let kept = match recipe.train.gradient_checkpointing {
        GradientCheckpointing::Always => 0,
        GradientCheckpointing::Never => model.layers,
        GradientCheckpointing::Auto => {
            let room = train::free_memory(machine.device).map_or(f64::INFINITY, |free| free as f64 / 2.0);
            model.layers.min((room / block) as usize)
        }
    };
    let recomputed = model.layers - kept;
    let frozen = model.base - model.unfrozen - model.packed.numbers;
    let trainable = model.trainable();
    let activations = kept as f64 * block
        + recomputed as f64 * tokens * model.hidden * bytes
        + if recomputed > 0 { block } else { 0.0 };
    let logits = 256.0_f64.min(tokens) * model.head / model.hidden * 4.0 + 2.0 * tokens * model.hidden * bytes;
    let parts = vec![
        ("frozen weights", frozen * bytes),
        ("weights of the teacher or reference", model.beside * bytes),
        ("packed weights", model.packed.bytes),
        ("one packed weight, dense", model.packed.largest * bytes),
        ("trained weights (f32)", trainable * 4.0),
        ("gradients (f32)", trainable * 4.0),
        (
            "optimiser (two running means)",
            trainable * state_bytes(recipe.train.optim),
        ),
        (
            "weights' compute copies",
            if bytes < 4.0 { trainable * bytes } else { 0.0 },
        ),
        ("activations", activations),
        ("loss, a chunk of logits", logits),
        ("libtorch, tokenizer, buffers", PROCESS),
    ];
    Memory {
        parts,
        layers: model.layers,
        recomputed,
    }
}

impl Memory {
    /// What there is, by name, in bytes.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.parts.iter().copied().filter(|(_, bytes)| *bytes > 0.0)
    }

    /// All of it at once, in bytes.
    pub fn peak(&self) -> f64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The share of the blocks that run twice.
    pub(crate) fn recomputed_share(&self) -> f64 {
        self.recomputed as f64 / self.layers.max(1) as f64
    }

    pub(crate) fn as_json(&self) -> Value {
        object(
            self.parts()
                .chain([("peak", self.peak()), ("recomputed blocks", self.recomputed as f64)]),
        )
    }
}

/// Bytes of optimiser state in memory for each number that trains; paged ones are on disk but for the one at work.
fn state_bytes(optim: train::Optim) -> f64 {
    match (optim.is_paged(), optim.is_8bit()) {
        (true, _) => 0.0,
        (false, true) => 2.0 * (1.0 + 4.0 / 256.0),
        (false, false) => 8.0,
    }
}
