//! The recipe's surgeries on a model, in order.

use anyhow::{Context as _, Result, bail};
use decoder::{Decoder, HeadKind};
use lora::{LoraConfig, Wrapping};
use regex::RegexSet;
use tensor_core::{ModulePath, Role};

use crate::recipe::{FullConfig, Recipe, Surgery};

/// A model that trains, and how it is kept.
#[derive(Debug)]
pub struct Operated {
    /// The model.
    pub model: Decoder,
    /// What is written.
    pub kept: Kept,
    /// In words, for people.
    pub what: String,
}

/// What is written of a model.
#[derive(Debug)]
pub enum Kept {
    /// An adapter for the base it was trained on.
    Adapter {
        /// As `adapter_config.json` shall say it.
        config: LoraConfig,
        /// The wrapped modules.
        targets: Vec<ModulePath>,
    },
    /// The whole model.
    Whole,
}

/// Applies the recipe's surgeries; `model` has its final head.
pub fn operate(model: Decoder, recipe: &Recipe) -> Result<Operated> {
    let adapters = recipe
        .surgery
        .iter()
        .filter(|surgery| matches!(surgery, Surgery::Lora(_)))
        .count();
    if adapters > 1 || (adapters == 1 && recipe.surgery.len() > 1) {
        bail!(
            "an adapter file holds one `kind = \"lora\"` alone, found {} surgeries\n\
             hint: other ranks go into `rank_pattern`, modules that train whole into `modules_to_save`",
            recipe.surgery.len()
        );
    }
    let mut operated = Operated {
        model,
        kept: Kept::Whole,
        what: String::new(),
    };
    for (idx, surgery) in recipe.surgery.iter().enumerate() {
        operated = match surgery {
            Surgery::Lora(config) => wrap(operated.model, config),
            Surgery::Full(config) => unfreeze(operated.model, config),
        }
        .with_context(|| format!("`surgery.{idx}`"))?;
    }
    Ok(operated)
}

fn wrap(model: Decoder, config: &LoraConfig) -> Result<Operated> {
    let tables = [ModulePath::from("model.embed_tokens")];
    // A new head trains whole and is saved with the adapter; an update of it would be lost in its noise.
    let has_new_head = *model.head_kind() != HeadKind::LanguageModel;
    let mut paths = model.projection_paths();
    if has_new_head {
        paths.retain(|(_, is_output)| !is_output);
    }
    let wrapping = Wrapping::choose(config.clone(), &paths, &tables)?;
    let (targets, whole): (Vec<_>, Vec<_>) = (
        wrapping.chosen().cloned().collect(),
        wrapping.whole().cloned().collect(),
    );
    let model = model
        .map_projections(&mut |at, base| wrapping.projection(at, base))?
        .map_embedding(&mut |at, base| wrapping.table(at, base))?;
    let mut config = config.clone();
    if has_new_head {
        // The names that PEFT adds for sequence classification.
        config
            .modules_to_save
            .extend(["classifier".to_owned(), "score".to_owned()]);
    }
    let of = paths.len();
    let mut what = format!("LoRA of rank {} on {} of {of} projections", config.r, targets.len());
    if !whole.is_empty() {
        what.push_str(&format!(", {} modules whole", whole.len()));
    }
    Ok(Operated {
        model,
        kept: Kept::Adapter { config, targets },
        what,
    })
}

fn unfreeze(model: Decoder, config: &FullConfig) -> Result<Operated> {
    let patterns =
        RegexSet::new(&config.unfrozen_parameters).context("`unfrozen_parameters` holds no regular expression")?;
    for pattern in &config.unfrozen_parameters {
        let single = regex::Regex::new(pattern)?;
        let mut met = false;
        tensor_core::Parameters::visit(&model, &ModulePath::root(), &mut |at, _| {
            met |= single.is_match(at.as_str())
        });
        if !met {
            bail!(
                "`{pattern}` in `unfrozen_parameters` matches no parameter of this model\nhint: `finetune inspect MODEL` lists them"
            );
        }
    }
    let mut count = 0;
    let model = model.train_where(|at, role| {
        let chosen = patterns.is_match(at.as_str()) && !(config.freeze_embeddings && role == Role::Embedding);
        count += usize::from(chosen);
        chosen
    })?;
    Ok(Operated {
        model,
        kept: Kept::Whole,
        what: format!("full fine-tuning of {count} tensors"),
    })
}
