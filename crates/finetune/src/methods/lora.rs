//! `kind = "lora"`: low-rank updates beside frozen weights.

use std::path::Path;

use ::lora::{LoraConfig, Wrapping};
use anyhow::Result;
use decoder::{Decoder, HeadKind};
use tensor_core::ModulePath;

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Saved, SavedForm, Trains, low_rank};
use crate::model::Source;
use crate::zeros;

pub(super) static METHOD: Method = Method {
    kind: "lora",
    summary: "Adds low-rank updates to frozen weights",
    trains: Trains::Update,
    parse: |options| low_rank::parse(options, "lora"),
    format: None,
};

impl Adaptation for LoraConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, context: &mut Context) -> Result<Adapting> {
        let Adapting { model, mut what, .. } = adapting;
        let tables = [ModulePath::from("model.embed_tokens")];
        // A new head trains whole and is saved with the adapter; an update of it would be lost in its noise.
        let has_new_head = *model.head_kind() != HeadKind::LanguageModel;
        let mut paths = model.projection_paths();
        if has_new_head {
            paths.retain(|(_, is_output)| !is_output);
        }
        let mut wrapping = Wrapping::choose(self.clone(), &paths, &tables)?;
        if let Some(originals) = context.originals {
            wrapping = wrapping.with_originals(Box::new(originals));
        }
        let (targets, whole): (Vec<_>, Vec<_>) = (
            wrapping.chosen().cloned().collect(),
            wrapping.whole().cloned().collect(),
        );
        let model = model
            .map_projections(&mut |at, base| wrapping.projection(at, base))?
            .map_embedding(&mut |at, base| wrapping.table(at, base))?;
        let mut config = self.clone();
        if has_new_head {
            // The names that PEFT adds for sequence classification.
            config
                .modules_to_save
                .extend(["classifier".to_owned(), "score".to_owned()]);
        }
        let of = paths.len();
        what.push(format!(
            "LoRA of rank {} on {} of {of} projections",
            config.r,
            targets.len()
        ));
        if !whole.is_empty() {
            what.push(format!("{} modules whole", whole.len()));
        }
        let form = PeftLora {
            config,
            targets,
            keeps_zeros: false,
        };
        Ok(Adapting {
            model,
            saved: Some(Saved::Beside(Box::new(form))),
            what,
        })
    }

    fn cost(&self, shape: &ModelShape) -> Result<Cost> {
        Ok(Cost {
            added: low_rank::numbers(self, None, shape)?,
            ..Cost::default()
        })
    }

    fn dropout(&self) -> f64 {
        self.lora_dropout
    }

    fn low_rank(&self) -> Option<&LoraConfig> {
        Some(self)
    }
}

/// PEFT's adapter.
#[derive(Debug)]
struct PeftLora {
    /// As `adapter_config.json` shall say it.
    config: LoraConfig,
    /// The wrapped modules.
    targets: Vec<ModulePath>,
    /// Whether the base's zeros stay under it.
    keeps_zeros: bool,
}

impl SavedForm for PeftLora {
    fn save(&self, folder: &Path, model: &Decoder, source: &Source) -> Result<()> {
        let (config, tensors) = low_rank::as_saved(&self.config, ::lora::adapter_tensors(model), source)?;
        let task = low_rank::task(model);
        let mut config = ::lora::to_peft_config(&config, Some(source.name()), task, &self.targets);
        if self.keeps_zeros {
            config.insert(zeros::KEY.to_owned(), true.into());
        }
        crate::model::save_adapter(folder, config, &tensors)
    }

    fn keep_zeros(&mut self) {
        self.keeps_zeros = true;
    }
}
