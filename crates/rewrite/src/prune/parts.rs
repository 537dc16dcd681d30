//! Whole parts taken out: the model that is written is smaller in its configuration.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::{Existing, ModelConfig, StagedDir, TensorInfo};
use decoder::{Decoder, HeadKind};
use events::Events;
use methods::pruning::Samples;
use models::Source;
use prune::{Calibration, Cut, Importance, Shape};
use serde_json::{Value, json};
use tch::{Device, Tensor};

/// By what parts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Blocks by how little they change their input.
    BlockInfluence,
    /// Consecutive blocks by the angle between their input and output.
    Angular,
    /// Heads and channels by how much the loss would rise without them.
    Taylor,
    /// Heads and channels by the size of their activations.
    Activation,
}

impl By {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BlockInfluence => "block-influence",
            Self::Angular => "angular",
            Self::Taylor => "taylor",
            Self::Activation => "activation",
        }
    }
}

/// The sizes that the smaller model shall have; what is none stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Blocks that stay.
    pub num_hidden_layers: Option<usize>,
    /// Channels of the feed-forward that stay in each block.
    pub intermediate_size: Option<usize>,
    /// Key-value heads that stay in each block, with their query heads.
    pub num_key_value_heads: Option<usize>,
}

/// What is to be taken out, and by what it is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Structure {
    /// By what parts are chosen.
    pub by: By,
    /// What stays.
    pub sizes: Sizes,
}

/// What was taken out.
#[derive(Debug)]
pub struct Taken {
    /// What stays of the model.
    pub cut: Cut,
    /// Each block's influence, or each run's distance by its first block.
    scores: Vec<f64>,
    by: By,
    before: Shape,
}

impl Structure {
    /// Chooses; the model comes back whole.
    pub fn choose(&self, model: Decoder, samples: &Samples, events: &Events) -> Result<(Decoder, Taken)> {
        let before = shape(model.config());
        let rows = samples.rows(model.device());
        let nothing = Cut::nothing(before);
        let mut taken = Taken {
            cut: nothing.clone(),
            scores: Vec::new(),
            by: self.by,
            before,
        };
        if let Some(left) = self.sizes.num_hidden_layers {
            let (calibration, gone) = (Calibration::new(&model, rows), before.num_layers - left);
            let layers = if self.by == By::Angular {
                taken.scores = prune::angular_distances(&model, calibration, gone)?;
                prune::least_run(&taken.scores, gone)
            } else {
                taken.scores = prune::block_influence(&model, calibration);
                prune::least_influential(&taken.scores, gone)
            };
            ensure!(
                taken.scores.iter().all(|score| score.is_finite()),
                "the calibration text gives activations that are not finite\nhint: compute in f32: `--dtype f32`"
            );
            taken.cut = nothing.without_layers(&layers)?;
            return Ok((model, taken));
        }
        let importance = match self.by {
            By::Taylor => Importance::Taylor,
            _ => Importance::Activation,
        };
        if importance == Importance::Taylor && *model.head_kind() != HeadKind::LanguageModel {
            bail!(
                "`--method taylor` asks for the next token's loss, which a classifier has not\nhint: `--method activation`"
            );
        }
        let work = events.begin("rows", rows.len());
        let mut operate =
            |model: Decoder, surgeon: &mut tensor_core::ProjectionSurgeon| Ok(model.map_projections(surgeon)?);
        let (model, units) = prune::units(model, before, importance, &rows, &mut operate, &mut |_| work.advance(1))?;
        drop(work);
        let units = units.checked()?;
        let mut cut = nothing;
        if let Some(channels) = self.sizes.intermediate_size {
            cut = cut.with_channels(channels, &units.channels)?;
        }
        if let Some(groups) = self.sizes.num_key_value_heads {
            cut = cut.with_groups(groups, &units.groups)?;
        }
        taken.cut = cut;
        Ok((model, taken))
    }
}

impl Taken {
    /// What is left of `model`, which came of `source`, up to where it appears in `folder`.
    pub fn stage(&self, model: &Decoder, source: &Source, folder: &Path) -> Result<StagedDir> {
        let left = self.cut.shape();
        let mut config = model.saved_config().with_layers(self.cut.layers());
        if left.intermediate_size != self.before.intermediate_size {
            config = config.with_intermediate_size(left.intermediate_size as i64);
        }
        if left.num_kv_heads != self.before.num_kv_heads {
            config = config.with_heads(left.num_heads as i64, left.num_kv_heads as i64);
        }
        let held: HashMap<String, Tensor> = model.named_tensors()?.into_iter().collect();
        let infos: Vec<TensorInfo> = (config.tensors().into_iter())
            .map(|(name, shape)| TensorInfo {
                name,
                shape,
                kind: model.kind(),
            })
            .collect();
        let tensor = |info: &TensorInfo| {
            let old = self.cut.source(&info.name);
            let value = held.get(&old).ok_or_else(|| format!("no `{old}` in the model"))?;
            Ok(self.cut.tensor(&old, value).to_device(Device::Cpu).contiguous())
        };
        checkpoint::stage_model(
            folder,
            &config,
            &infos,
            tensor,
            &source.options(Existing::Refuse, "prune"),
        )
        .with_context(|| format!("`{}`", folder.display()))
    }

    /// For machines.
    pub fn as_json(&self) -> Value {
        let gone = (0..self.before.num_layers).filter(|idx| !self.cut.layers().contains(idx));
        json!({
            "method": self.by.name(),
            "gone_layers": gone.collect::<Vec<_>>(),
            "scores": self.scores,
            "shape_before": sizes(self.before),
            "shape_after": sizes(self.cut.shape()),
        })
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let (before, after) = (self.before, self.cut.shape());
        let line = |name: &str, before: usize, after: usize| format!("{name:<24} {before:>12} {after:>12}");
        let mut lines = vec![
            line("blocks", before.num_layers, after.num_layers),
            line("query heads", before.num_heads, after.num_heads),
            line("key-value heads", before.num_kv_heads, after.num_kv_heads),
            line(
                "feed-forward channels",
                before.intermediate_size,
                after.intermediate_size,
            ),
        ];
        let gone: Vec<String> = (0..before.num_layers)
            .filter(|idx| !self.cut.layers().contains(idx))
            .map(|idx| match self.scores.get(idx) {
                Some(score) if self.by == By::BlockInfluence => format!("{idx} ({score:.3})"),
                _ => idx.to_string(),
            })
            .collect();
        if !gone.is_empty() {
            lines.push(format!("blocks that went: {}", gone.join(", ")));
        }
        lines
    }
}

fn shape(config: &ModelConfig) -> Shape {
    Shape {
        num_layers: config.num_hidden_layers,
        num_heads: config.num_attention_heads as usize,
        num_kv_heads: config.num_key_value_heads as usize,
        head_dim: config.head_dim as usize,
        intermediate_size: config.intermediate_size as usize,
    }
}

fn sizes(shape: Shape) -> Value {
    json!({
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "intermediate_size": shape.intermediate_size,
    })
}
