//! Whole parts taken out: the model that is written is smaller in its configuration.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::{Existing, ModelConfig, StagedDir, TensorInfo};
use decoder::{Decoder, HeadKind};
use methods::pruning::Samples;
use models::Source;
use prune::{Calibration, Cut, Importance, Shape};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::Method;
use crate::failure::usage;
use crate::output;

/// The sizes that the smaller model shall have, under their names in `config.json`.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct StructureArgs {
    /// block-influence, angular: blocks that stay
    #[arg(long, value_name = "N")]
    num_hidden_layers: Option<usize>,
    /// taylor, activation: channels of the feed-forward that stay in each block
    #[arg(long, value_name = "N")]
    intermediate_size: Option<usize>,
    /// taylor, activation: key-value heads that stay in each block, with their query heads
    #[arg(long, value_name = "N")]
    num_key_value_heads: Option<usize>,
}

/// What is to be taken out, and by what it is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Structure {
    method: Method,
    sizes: StructureArgs,
}

/// What was taken out.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) cut: Cut,
    /// Each block's influence, or each run's distance by its first block.
    scores: Vec<f64>,
    method: Method,
    before: Shape,
}

impl StructureArgs {
    /// Whether any is given.
    pub(super) fn is_given(&self) -> bool {
        self.num_hidden_layers.is_some() || self.intermediate_size.is_some() || self.num_key_value_heads.is_some()
    }

    /// For a method that takes parts out.
    pub(super) fn structure(self, method: Method, config: &ModelConfig) -> Result<Structure> {
        let (blocks, units) = (
            self.num_hidden_layers,
            self.intermediate_size.is_some() || self.num_key_value_heads.is_some(),
        );
        let by_blocks = matches!(method, Method::BlockInfluence | Method::Angular);
        match (by_blocks, blocks, units) {
            (true, Some(_), false) | (false, None, true) => {}
            (true, None, _) => {
                return Err(usage(format!(
                    "`--method {method}` takes out blocks\nhint: say how many stay, by `--num-hidden-layers`"
                )));
            }
            (true, Some(_), true) => {
                return Err(usage(format!(
                    "`--method {method}` takes out blocks, found a width beside them\n\
                 hint: `--method taylor` or `activation` in a second call"
                )));
            }
            (false, Some(_), _) => {
                return Err(usage(format!(
                    "`--method {method}` takes out heads and channels, found `--num-hidden-layers`\n\
                 hint: `--method block-influence` or `angular` in a call of its own"
                )));
            }
            (false, None, false) => {
                return Err(usage(format!(
                    "`--method {method}` takes out heads and channels\n\
                 hint: say how many stay, by `--intermediate-size` or `--num-key-value-heads`"
                )));
            }
        }
        let fits = |option: &str, wanted: Option<usize>, there: usize| match wanted {
            Some(wanted) if wanted == 0 || wanted >= there => Err(usage(format!(
                "`--{option}`: wanted a number from 1 to {} that stays, found {wanted}",
                there - 1
            ))),
            _ => Ok(()),
        };
        fits("num-hidden-layers", self.num_hidden_layers, config.num_hidden_layers)?;
        fits(
            "intermediate-size",
            self.intermediate_size,
            config.intermediate_size as usize,
        )?;
        fits(
            "num-key-value-heads",
            self.num_key_value_heads,
            config.num_key_value_heads as usize,
        )?;
        if let Some(groups) = self.num_key_value_heads {
            let heads = groups as i64 * config.num_attention_heads / config.num_key_value_heads;
            ensure!(
                config.hidden_size % heads == 0,
                "`--num-key-value-heads`: {groups} of them have {heads} query heads, which do not divide the width {}, and \
                 Transformers refuses such a model\nhint: choose another number",
                config.hidden_size
            );
        }
        Ok(Structure { method, sizes: self })
    }
}

impl Structure {
    /// Chooses; the model comes back whole.
    pub(super) fn choose(&self, model: Decoder, samples: &Samples) -> Result<(Decoder, Taken)> {
        let before = shape(model.config());
        let rows = samples.rows(model.device());
        let nothing = Cut::nothing(before);
        let mut taken = Taken {
            cut: nothing.clone(),
            scores: Vec::new(),
            method: self.method,
            before,
        };
        if let Some(left) = self.sizes.num_hidden_layers {
            let (calibration, gone) = (Calibration::new(&model, rows), before.num_layers - left);
            let layers = if self.method == Method::Angular {
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
        let importance = match self.method {
            Method::Taylor => Importance::Taylor,
            _ => Importance::Activation,
        };
        if importance == Importance::Taylor && *model.head_kind() != HeadKind::LanguageModel {
            bail!(
                "`--method taylor` asks for the next token's loss, which a classifier has not\nhint: `--method activation`"
            );
        }
        let work = output::events().begin("rows", rows.len());
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
    pub(super) fn stage(&self, model: &Decoder, source: &Source, folder: &Path) -> Result<StagedDir> {
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
    pub(super) fn as_json(&self) -> Value {
        let gone = (0..self.before.num_layers).filter(|idx| !self.cut.layers().contains(idx));
        json!({
            "method": self.method.to_string(),
            "gone_layers": gone.collect::<Vec<_>>(),
            "scores": self.scores,
            "shape_before": sizes(self.before),
            "shape_after": sizes(self.cut.shape()),
        })
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
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
                Some(score) if self.method == Method::BlockInfluence => format!("{idx} ({score:.3})"),
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
