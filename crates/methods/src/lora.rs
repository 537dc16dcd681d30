//! `kind = "lora"`: low-rank updates beside frozen weights.

use std::collections::BTreeMap;
use std::path::Path;

use ::lora::{Init, LoraConfig, Wrapping};
use anyhow::Result;
use decoder::Decoder;
use models::Source;
use models::quantised::Quantisation;
use models::zeros;
use serde_json::{Map, Value, json};
use tensor_core::{Embedding, ModulePath, Param, Projection};

use super::{
    Adaptation, Adapting, Attached, Context, Cost, Merging, Method, ModelShape, Saved, SavedForm, SavedFormat, Trains,
    adaptable, low_rank, peft_type,
};
use crate::peft::Adapter;
use crate::recipe::combinations::Rule;
use crate::recipe::combinations::modules::updated;

pub(super) static METHOD: Method = Method {
    kind: "lora",
    summary: "Adds low-rank updates to frozen weights",
    schema: low_rank::schema,
    example: "r = 4",
    trains: Trains::Update,
    reshapes: false,
    parse: |options| low_rank::parse(options, "lora"),
    rules: RULES,
    format: Some(&SavedFormat {
        name: "LoRA or DoRA in PEFT's files",
        is_in,
        open: |folder| Ok(Box::new(Adapter::open(folder)?)),
        facts,
        merges: true,
    }),
};

/// What it cannot go together with.
const RULES: &[Rule] = &[
    Rule {
        name: "loftq-without-quantize",
        combination: "`init_lora_weights = \"loftq\"` without `quantize`",
        why: "`loftq` begins with what quantising has lost, and this recipe quantises nothing",
        hint: "put `kind = \"quantize\"` before it, over a model that is not in 4 bits yet",
        meets: |c| {
            let idx = c.surgery.iter().position(|surgery| is_loftq(surgery.low_rank()))?;
            (!c.quantizes()).then(|| format!("surgery.{idx}.init_lora_weights"))
        },
    },
    Rule {
        name: "loftq-over-dense",
        combination: "`init_lora_weights = \"loftq\"` on a module that `quantize` leaves dense",
        why: "`loftq` begins with what quantising has lost, and one of the modules that it updates is not quantised",
        hint: "leave the modules of `skip_modules` (`lm_head`) out of `target_modules`, or let `quantize` pack them: `skip_modules = []`",
        meets: |c| updated(c, false, "init_lora_weights", |config| is_loftq(Some(config))),
    },
    Rule {
        name: "taken-from-packed",
        combination: "`init_lora_weights = \"pissa\"` or `\"olora\"` over packed weights",
        why: "`pissa` and `olora` take the update out of the weight, and packed weights stay as they are",
        hint: "use `init_lora_weights = \"loftq\"` over `quantize`, or `true`",
        meets: |c| {
            let takes = |config: &LoraConfig| config.init_lora_weights.takes_from_base();
            updated(c, true, "init_lora_weights", takes)
        },
    },
];

fn is_loftq(config: Option<&LoraConfig>) -> bool {
    config.is_some_and(|config| config.init_lora_weights == Init::Loftq)
}

impl Adaptation for LoraConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, context: &mut Context) -> Result<Adapting> {
        let Adapting { model, mut what, .. } = adapting;
        let tables = [ModulePath::from("model.embed_tokens")];
        let paths = adaptable(&model);
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
        let config = low_rank::with_head(self, &model);
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
        crate::peft::save_adapter(folder, config, &tensors)
    }

    fn keep_zeros(&mut self) {
        self.keeps_zeros = true;
    }
}

fn is_in(folder: &Path) -> bool {
    peft_type(folder).as_deref() == Some("LORA")
}

impl Attached for Adapter {
    fn path(&self) -> &Path {
        self.path()
    }

    fn remarks(&self) -> &[String] {
        self.remarks()
    }

    fn place(&self, model: Decoder) -> Result<Decoder> {
        self.place(model)
    }

    fn merging(&self) -> Result<Box<dyn Merging + '_>> {
        let placement = self.placement()?;
        Ok(Box::new(Update {
            adapter: self,
            placement,
        }))
    }
}

/// An adapter whose update is summed into the base's tensors.
struct Update<'a> {
    adapter: &'a Adapter,
    placement: ::dora::Placement,
}

impl Merging for Update<'_> {
    fn touches(&self, module: &str) -> bool {
        self.adapter.touches(module)
    }

    fn labels(&self) -> Result<Option<Vec<String>>> {
        self.adapter.labels()
    }

    fn keeps_zeros(&self) -> bool {
        self.adapter.keeps_zeros()
    }

    fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        self.placement.projection(at, base)
    }

    fn table(&self, at: &ModulePath, base: Box<dyn Embedding>) -> tensor_core::Result<Box<dyn Embedding>> {
        self.placement.table(at, base)
    }

    fn param(&self, at: &ModulePath, param: Param) -> tensor_core::Result<Param> {
        self.placement.param(at, param)
    }

    fn finish(&self) -> Result<()> {
        Ok(self.placement.finish()?)
    }
}

fn facts(path: &Path) -> Result<Map<String, Value>> {
    let adapter = Adapter::open(path)?;
    let (file, config) = (adapter.file().config(), adapter.config());
    let parameters: usize = adapter.tensors().iter().map(|(_, tensor)| tensor.numel()).sum();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for module in adapter.file().modules() {
        *by_name.entry(module.name()).or_default() += 1;
    }
    let modules: Vec<String> = by_name
        .iter()
        .map(|(name, count)| format!("{name} × {count}"))
        .collect();
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    put("kind", json!("adapter"));
    put("path", json!(path.display().to_string()));
    put("type", json!(file.peft_type));
    put("method", json!(if adapter.use_dora() { "DoRA" } else { "LoRA" }));
    put("task", json!(file.task_type));
    put("base", json!(file.base_model_name_or_path));
    put("rank", json!(config.r));
    put("alpha", json!(config.lora_alpha));
    put(
        "scale",
        json!(if config.use_rslora {
            "alpha / √rank"
        } else {
            "alpha / rank"
        }),
    );
    put("dropout", json!(config.lora_dropout));
    put("parameters", json!(parameters));
    put("modules", json!(modules));
    put("trained_whole", json!(config.modules_to_save));
    put("labels", json!(adapter.labels()?));
    let init = config.init_lora_weights;
    if init.takes_from_base() {
        put(
            "base_under_it",
            json!(format!(
                "the base less its first update (`init_lora_weights` = \"{}\")",
                init.name()
            )),
        );
    }
    if let Some(quantisation) = Quantisation::of_adapter(path)? {
        put("trained_over", json!(quantisation.to_string()));
    }
    if !adapter.remarks().is_empty() {
        put("remarks", json!(adapter.remarks()));
    }
    Ok(facts)
}
