//! Peak memory of a run, part by part, from shapes alone.
//!
//! Shapes: t tokens of the longest row, d model width, v vocabulary.

use anyhow::Result;
use checkpoint::{ModelConfig, Output};
use memory_tuning::ExpertShape;
use quant::{QuantizeConfig, Quantizing};
use regex::RegexSet;
use serde_json::Value;
use tensor_core::ModulePath;
use train::GradientCheckpointing;

use super::object;
use crate::machine::Machine;
use crate::model::Source;
use crate::recipe::{ObjectiveConfig, Recipe, Surgery};
use crate::training::operate::hft::pieces_of_config;
use crate::training::reference;

/// What the estimates need of a model.
pub(super) struct Model {
    pub(super) hidden: f64,
    pub(super) intermediate: f64,
    pub(super) layers: usize,
    /// Numbers of the base.
    pub(super) base: f64,
    /// Numbers of the base's matrices, embedding and head left out: what a token is multiplied by.
    pub(super) matrices: f64,
    /// Numbers of the head.
    pub(super) head: f64,
    /// Numbers that train beside the base.
    pub(super) added: f64,
    /// Numbers of the base that train.
    pub(super) unfrozen: f64,
    /// Numbers of the base that are packed, and the bytes that they take.
    packed: (f64, f64),
    /// Numbers of the model that is learnt from or compared with, where it is a second one.
    beside: f64,
    /// Numbers of the largest packed matrix, which is dense for the length of a product.
    largest_packed: f64,
}

impl Model {
    /// Counts from shapes and the recipe's surgeries.
    pub(super) fn of(config: &ModelConfig, recipe: &Recipe, labels: Option<&[String]>) -> Result<Self> {
        let mut config = config.clone();
        if let Some(labels) = labels {
            config = config.with_labels(labels.to_vec());
        }
        for surgery in &recipe.surgery {
            if let Surgery::Upcycle(upcycle) = surgery {
                let (e, k) = (upcycle.num_local_experts as i64, upcycle.num_experts_per_tok as i64);
                config = config.with_experts(e, k)?;
            }
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
            packed: (0.0, 0.0),
            beside: 0.0,
            largest_packed: 0.0,
        };
        model.beside = second_model(recipe, model.base)?;
        if config.is_quantised() {
            // The files say more exactly how; in the usual form this is what they take.
            model.pack(&QuantizeConfig::default(), &config, &tensors)?;
        }
        if labels.is_some() {
            model.unfrozen += model.head;
        }
        for surgery in &recipe.surgery {
            match surgery {
                Surgery::Quantize(quantize) => model.pack(quantize, &config, &tensors)?,
                Surgery::Hft(half) => {
                    let halves = hft::Halves::new(half, &pieces_of_config(&config))?;
                    model.unfrozen += halves.draw(0).trained_numbers() as f64;
                }
                Surgery::Lora(lora) => model.added += updates(lora, None, &config, &tensors)?,
                Surgery::Dora(dora) => model.added += updates(&dora.lora, Some(dora), &config, &tensors)?,
                Surgery::Adapter(adapter) => {
                    model.added += adapter.num_parameters(config.hidden_size, model.layers) as f64;
                    let norms = tensors.iter().filter(|(name, _)| name.ends_with("norm.weight"));
                    if adapter.train_norms {
                        model.unfrozen += norms.map(|(_, shape)| size(shape)).sum::<f64>();
                    }
                }
                // A memory's rows depend on the facts, and are added where these are counted; experts are those of the model
                // that upcycling writes; a matrix at a time is masked, and nothing of it stays.
                Surgery::Memory(_) | Surgery::Upcycle(_) | Surgery::KeepZeros(_) | Surgery::Prune(_) => {}
                Surgery::Full(full) => {
                    let chosen = RegexSet::new(&full.unfrozen_parameters)?;
                    let trains = |name: &str| {
                        chosen.is_match(name) && !(full.freeze_embeddings && name.starts_with("model.embed_tokens"))
                    };
                    let sizes = tensors
                        .iter()
                        .filter(|(name, _)| trains(name))
                        .map(|(_, shape)| size(shape));
                    model.unfrozen += sizes.sum::<f64>();
                }
            }
        }
        model.unfrozen = model.unfrozen.min(model.base);
        Ok(model)
    }

    fn pack(&mut self, quantize: &QuantizeConfig, config: &ModelConfig, tensors: &[(String, Vec<i64>)]) -> Result<()> {
        let quantizing = Quantizing::choose(quantize.clone(), &decoder::projection_paths(config))?;
        let bits = quantize
            .scheme
            .bits_per_parameter(quantize.block_size, quantize.double_quant);
        for (name, shape) in tensors {
            let module = name.strip_suffix(".weight").map(ModulePath::from);
            if module.is_some_and(|module| quantizing.contains(&module)) {
                let numbers = shape.iter().product::<i64>() as f64;
                self.packed = (self.packed.0 + numbers, self.packed.1 + numbers * bits / 8.0);
                self.largest_packed = self.largest_packed.max(numbers);
            }
        }
        Ok(())
    }

    /// Numbers that train.
    pub(super) fn trainable(&self) -> f64 {
        self.added + self.unfrozen
    }
}

/// Numbers of a second model that is kept beside the one that trains: a teacher, or a copy as the reference.
fn second_model(recipe: &Recipe, base: f64) -> Result<f64> {
    let has_copy = match &recipe.objective {
        ObjectiveConfig::Distill(distill) => {
            return Ok(Source::open(&distill.teacher)?.dir().config().num_parameters() as f64);
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

/// Numbers of LoRA's factors and whole modules, and, with `dora`, of magnitudes.
fn updates(
    lora: &lora::LoraConfig,
    dora: Option<&dora::DoraConfig>,
    config: &ModelConfig,
    tensors: &[(String, Vec<i64>)],
) -> Result<f64> {
    let mut paths = decoder::projection_paths(config);
    let magnitude_only: Vec<ModulePath> = match dora.map(dora::DoraConfig::magnitude_only).transpose()?.flatten() {
        Some(modules) => modules.choose(paths.iter().map(|(path, output)| (path, *output)))?,
        None => Vec::new(),
    };
    paths.push((ModulePath::from("model.embed_tokens"), true));
    let whole: Vec<ModulePath> = paths
        .iter()
        .map(|(path, _)| path.clone())
        .filter(|path| lora.is_saved_whole(path))
        .collect();
    let chosen = lora
        .modules()?
        .choose(paths.iter().map(|(path, output)| (path, *output)))?;
    let shape = |path: &ModulePath| {
        let name = format!("{path}.weight");
        // A tied head has the embedding's shape.
        tensors
            .iter()
            .find(|(known, _)| *known == name)
            .map_or([config.vocab_size, config.hidden_size], |(_, shape)| {
                [shape[0], shape[1]]
            })
    };
    let mut numbers = 0.0;
    for path in chosen
        .iter()
        .filter(|path| !whole.contains(path) && !magnitude_only.contains(path))
    {
        let (rank, _) = lora.rank_and_scale(path)?;
        let magnitudes = if dora.is_some() { shape(path)[0] } else { 0 };
        numbers += (rank * shape(path).iter().sum::<i64>() + magnitudes) as f64;
    }
    numbers += magnitude_only.iter().map(|path| shape(path)[0] as f64).sum::<f64>();
    Ok(numbers
        + whole
            .iter()
            .map(|path| shape(path).iter().product::<i64>() as f64)
            .sum::<f64>())
}

/// Numbers of the rows of memories, if no two of `learnt` tokens share an expert.
pub(super) fn rows_of_memories(recipe: &Recipe, config: &ModelConfig, learnt: usize) -> Result<f64> {
    let mut numbers = 0.0;
    for surgery in &recipe.surgery {
        let Surgery::Memory(memory) = surgery else { continue };
        let paths = decoder::projection_paths(config);
        let chosen = memory
            .modules()?
            .choose(paths.iter().map(|(path, output)| (path, *output)))?;
        let rows = memory.num_experts.min(learnt * memory.top_k) as f64;
        for (_, shape) in config
            .tensors()
            .iter()
            .filter(|(name, _)| chosen.iter().any(|path| *name == format!("{path}.weight")))
        {
            let shape = ExpertShape::new(memory, shape[1] as usize, shape[0] as usize);
            numbers += rows * shape.width() as f64;
        }
    }
    Ok(numbers)
}

/// Bytes by part.
pub(super) struct Memory {
    parts: Vec<(&'static str, f64)>,
    layers: usize,
    recomputed: usize,
}

/// What the process holds before it has a model: libtorch's code and pools, the tokenizer.
const PROCESS: f64 = 0.19e9;
/// Values that a block leaves for each token: so many model widths and feed-forward widths.
const WIDTHS: (f64, f64) = (9.0, 4.0);

/// The peak of a run whose longest row has `t` tokens.
pub(super) fn estimate(model: &Model, recipe: &Recipe, machine: Machine, t: usize) -> Memory {
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
    let frozen = model.base - model.unfrozen - model.packed.0;
    let trainable = model.trainable();
    let activations = kept as f64 * block
        + recomputed as f64 * tokens * model.hidden * bytes
        + if recomputed > 0 { block } else { 0.0 };
    let logits = 256.0_f64.min(tokens) * model.head / model.hidden * 4.0 + 2.0 * tokens * model.hidden * bytes;
    let parts = vec![
        ("frozen weights", frozen * bytes),
        ("weights of the teacher or reference", model.beside * bytes),
        ("packed weights", model.packed.1),
        ("one packed weight, dense", model.largest_packed * bytes),
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
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.parts.iter().copied().filter(|(_, bytes)| *bytes > 0.0)
    }

    /// All of it at once, in bytes.
    pub(super) fn peak(&self) -> f64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The share of the blocks that run twice.
    pub(super) fn recomputed_share(&self) -> f64 {
        self.recomputed as f64 / self.layers.max(1) as f64
    }

    pub(super) fn as_json(&self) -> Value {
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
