//! `kind = "dora"`: low-rank updates of directions, and magnitudes, over frozen weights.

use std::path::Path;

use ::dora::{DoraConfig, Wrapping};
use ::lora::LoraConfig;
use anyhow::Result;
use decoder::Decoder;
use models::Source;
use tensor_core::ModulePath;

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Saved, SavedForm, Trains, adaptable, low_rank};
use crate::recipe::Surgery;
use crate::recipe::combinations::Rule;
use crate::recipe::combinations::modules::updates_table;

pub(super) static METHOD: Method = Method {
    kind: "dora",
    summary: "Updates the direction of frozen weights by low rank, and trains their magnitudes",
    schema: low_rank::schema,
    example: "r = 4",
    trains: Trains::Update,
    reshapes: false,
    parse: |options| low_rank::parse(options, "dora"),
    rules: RULES,
    format: None,
};

/// What it cannot go together with.
const RULES: &[Rule] = &[
    Rule {
        name: "keep-zeros-over-dora",
        combination: "`keep_zeros` over `dora`",
        why: "DoRA's magnitudes scale whole directions, which a mask would change",
        hint: "use `kind = \"lora\"`",
        meets: |c| {
            c.surgery_where(|surgery, before| surgery.keeps_zeros() && before.iter().any(|one| one.kind() == "dora"))
        },
    },
    Rule {
        name: "dora-over-table",
        combination: "`dora` on `embed_tokens`",
        why: "DoRA does not decompose the token table `model.embed_tokens`",
        hint: "use `kind = \"lora\"` for tables, or train it whole: `modules_to_save = [\"embed_tokens\"]`",
        meets: |c| {
            let over_table =
                |surgery: &Surgery| surgery.kind() == "dora" && surgery.low_rank().is_some_and(updates_table);
            let idx = c.surgery.iter().position(over_table)?;
            Some(format!("surgery.{idx}.target_modules"))
        },
    },
];

impl Adaptation for DoraConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, context: &mut Context) -> Result<Adapting> {
        let Adapting { model, mut what, .. } = adapting;
        let tables = [ModulePath::from("model.embed_tokens")];
        let paths = adaptable(&model);
        let mut wrapping = Wrapping::choose(self, &paths, &tables)?;
        if let Some(originals) = context.originals {
            wrapping = wrapping.with_originals(Box::new(originals));
        }
        let decomposed: Vec<ModulePath> = wrapping.decomposed().cloned().collect();
        let magnitude_only: Vec<ModulePath> = wrapping.magnitude_only().cloned().collect();
        let whole = wrapping.whole().count();
        let mut frozen_directions = Vec::new();
        let model = model
            .map_projections(&mut |at, base| {
                if magnitude_only.contains(at) {
                    let shape = base.weight().size();
                    frozen_directions.push((at.clone(), [shape[0], shape[1]]));
                }
                wrapping.projection(at, base)
            })?
            .map_embedding(&mut |at, base| wrapping.table(at, base))?;
        let config = DoraConfig {
            lora: low_rank::with_head(&self.lora, &model),
            ..self.clone()
        };
        let (r, of) = (config.lora.r, paths.len());
        what.push(format!("DoRA of rank {r} on {} of {of} projections", decomposed.len()));
        if !magnitude_only.is_empty() {
            what.push(format!("magnitudes alone on {}", magnitude_only.len()));
        }
        if whole > 0 {
            what.push(format!("{whole} modules whole"));
        }
        let form = PeftDora {
            config,
            targets: decomposed.into_iter().chain(magnitude_only).collect(),
            frozen_directions,
        };
        Ok(Adapting {
            model,
            saved: Some(Saved::Beside(Box::new(form))),
            what,
        })
    }

    fn cost(&self, shape: &ModelShape) -> Result<Cost> {
        Ok(Cost {
            added: low_rank::numbers(&self.lora, Some(self), shape)?,
            ..Cost::default()
        })
    }

    fn dropout(&self) -> f64 {
        self.lora.lora_dropout
    }

    fn low_rank(&self) -> Option<&LoraConfig> {
        Some(&self.lora)
    }
}

/// PEFT's adapter with magnitudes.
#[derive(Debug)]
struct PeftDora {
    /// As `adapter_config.json` shall say it.
    config: DoraConfig,
    /// The modules with magnitudes.
    targets: Vec<ModulePath>,
    /// Those of them whose direction stays, with the shapes of their weights.
    frozen_directions: Vec<(ModulePath, [i64; 2])>,
}

impl SavedForm for PeftDora {
    fn save(&self, folder: &Path, model: &Decoder, source: &Source) -> Result<()> {
        let mut tensors = ::lora::adapter_tensors(model);
        for (at, shape) in &self.frozen_directions {
            let (rank, _) = self.config.lora.rank_and_scale(at)?;
            tensors.extend(::dora::still_factors(at, rank, *shape));
        }
        // Magnitudes alone are among the targets whatever options chose them.
        let named = DoraConfig {
            lora: ::dora::targeted(&self.config, &self.targets),
            ..self.config.clone()
        };
        let (lora, tensors) = low_rank::as_saved(&named.lora, tensors, source)?;
        let config = DoraConfig { lora, ..named };
        let task = low_rank::task(model);
        let config = ::dora::to_peft_config(&config, Some(source.name()), task, &self.targets);
        crate::peft::save_adapter(folder, config, &tensors)
    }
}
