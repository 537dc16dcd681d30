//! `kind = "memory"`: a mixture of memory experts beside frozen projections.

use schemars::JsonSchema as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use decoder::Decoder;
use memory_tuning::{ExpertShape, MemoryBank, MemoryConfig, Wrapping};
use models::Source;
use serde_json::{Map, Value, json};

use super::{
    Adaptation, Adapting, Attached, Context, Cost, Merging, Method, ModelShape, Options, Saved, SavedForm, SavedFormat,
    Trains,
};
use crate::facts as memorised;
use crate::memories::{self, Memories};
use crate::recipe::Surgery;
use crate::recipe::combinations::Rule;

pub(super) static METHOD: Method = Method {
    kind: "memory",
    summary: "Puts a mixture of memory experts beside frozen projections, for facts (`objective.kind = \"memory\"`)",
    schema: MemoryConfig::json_schema,
    example: "num_experts = 64\ntop_k = 4\nquery_dim = 8",
    trains: Trains::Beside,
    reshapes: false,
    parse,
    rules: RULES,
    format: Some(&SavedFormat {
        name: "a memory of facts",
        is_in: memories::is_in,
        open: |folder| Ok(Box::new(Memories::open(folder)?)),
        facts,
        merges: false,
    }),
};

/// What it cannot go together with.
const RULES: &[Rule] = &[
    Rule {
        name: "memory-objective",
        combination: "`memory` with another objective than `memory`",
        why: "`kind = \"memory\"` among the surgeries is trained by `objective.kind = \"memory\"` alone",
        hint: "set `objective.kind = \"memory\"`",
        meets: |c| (c.has_kind("memory") && !c.learns_facts()).then(|| "objective.kind".to_owned()),
    },
    Rule {
        name: "objective-memory",
        combination: "`objective.kind = \"memory\"` without `memory`, or with another method beside it",
        why: "`objective.kind = \"memory\"` wants one `[[surgery]]` that trains, of `kind = \"memory\"`: everything else stays as it is",
        hint: "make `kind = \"memory\"` the only surgery besides `quantize`",
        meets: |c| {
            let others = c.has(|surgery| surgery.kind() != "memory" && surgery.packs().is_none());
            (c.learns_facts() && (others || !c.has_kind("memory"))).then(|| "surgery".to_owned())
        },
    },
];

fn parse(options: &Options) -> Result<Surgery> {
    let mut config: MemoryConfig = options.read()?;
    if !options.gives(&["seed"])? {
        config.seed = options.seed;
    }
    config.check().map_err(|error| options.error(&error.to_string()))?;
    config.continue_from = config
        .continue_from
        .map(|path| std::path::absolute(&path).unwrap_or(path));
    Ok(Surgery::new(config))
}

impl Adaptation for MemoryConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, _: &mut Context) -> Result<Adapting> {
        let Adapting { model, mut what, .. } = adapting;
        let (model, bank) = if let Some(folder) = &self.continue_from {
            let saved = Memories::open(folder).context("`continue_from`")?;
            let there = Self {
                continue_from: self.continue_from.clone(),
                ..saved.config().clone()
            };
            ensure!(
                there == *self,
                "`continue_from`: the memory in `{}` was made with other options\nhint: repeat those of its `memory_config.json`, its seed too",
                folder.display()
            );
            saved.place(model)?
        } else {
            let wrapping = Wrapping::choose(self.clone(), &model.projection_paths())?;
            let model = model.map_projections(&mut |at, base| wrapping.projection(at, base))?;
            (model, wrapping.bank())
        };
        what.push(format!(
            "memories of {} experts on {} projections, {} of a token",
            self.num_experts,
            bank.len(),
            self.top_k
        ));
        Ok(Adapting {
            model,
            saved: Some(Saved::Beside(Box::new(bank))),
            what,
        })
    }

    /// The rows, if no two of the tokens that are learnt share an expert.
    fn cost(&self, shape: &ModelShape) -> Result<Cost> {
        let paths = decoder::projection_paths(shape.config);
        let chosen = self
            .modules()?
            .choose(paths.iter().map(|(path, output)| (path, *output)))?;
        let rows = self.num_experts.min(shape.learnt_tokens * self.top_k) as f64;
        let is_chosen = |name: &str| chosen.iter().any(|path| name == format!("{path}.weight"));
        let weights = shape.tensors.iter().filter(|(name, _)| is_chosen(name));
        let widths = weights.map(|(_, shape)| ExpertShape::new(self, shape[1] as usize, shape[0] as usize).width());
        Ok(Cost {
            added: widths.map(|width| rows * width as f64).sum(),
            ..Cost::default()
        })
    }

    fn continues_from(&self) -> Option<&Path> {
        self.continue_from.as_deref()
    }
}

impl SavedForm for MemoryBank {
    fn save(&self, folder: &Path, _: &Decoder, source: &Source) -> Result<()> {
        memories::save(folder, self, source.name())
    }

    fn memory(&self) -> Option<&MemoryBank> {
        Some(self)
    }
}

impl Attached for Memories {
    fn path(&self) -> &Path {
        self.path()
    }

    fn place(&self, model: Decoder) -> Result<Decoder> {
        self.place(model).map(|(model, _)| model)
    }

    fn merging(&self) -> Result<Box<dyn Merging + '_>> {
        Err(memory_tuning::Error::NotLinear.into())
    }
}

fn facts(path: &Path) -> Result<Map<String, Value>> {
    let memories = Memories::open(path)?;
    let known = memorised::read(path)?;
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    put("kind", json!("adapter"));
    put("path", json!(path.display().to_string()));
    put("method", json!("memory of facts"));
    put(
        "base",
        memories
            .file()
            .get("base_model_name_or_path")
            .cloned()
            .unwrap_or_default(),
    );
    let options = serde_json::to_value(memories.config())?;
    for (name, value) in options
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "seed")
    {
        put(name, value.clone());
    }
    put("modules", memories.file().get("modules").cloned().unwrap_or_default());
    put("facts", json!(known.len()));
    put(
        "known",
        json!(known.iter().filter(|written| written.state.is_known).count()),
    );
    Ok(facts)
}
