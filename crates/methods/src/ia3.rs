//! `kind = "ia3"`: vectors that scale what frozen projections give out, or what they read.

use schemars::JsonSchema as _;
use std::path::{Path, PathBuf};

use ::ia3::{Ia3Config, Placement, Side, Wrapping};
use anyhow::{Context as _, Result};
use checkpoint::{Safetensors, finite, write_file, write_tensors};
use decoder::{Decoder, HeadKind};
use models::Source;
use models::quantised::Quantisation;
use serde_json::{Map, Value, json};
use tch::Tensor;
use tensor_core::{ModulePath, Param, Projection};

use super::{
    Adaptation, Adapting, Attached, Context, Cost, Merging, Method, ModelShape, Options, Saved, SavedForm, SavedFormat,
    Trains, adaptable, low_rank, peft_type,
};
use crate::peft::labels_of;
use crate::recipe::Surgery;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

pub(super) static METHOD: Method = Method {
    kind: "ia3",
    summary: "Scales the outputs, or the inputs, of frozen projections by learned vectors (IA3)",
    schema: Ia3Config::json_schema,
    example: "",
    // Scaled rows and columns keep their zeros.
    trains: Trains::Beside,
    reshapes: false,
    parse,
    rules: &[],
    format: Some(&SavedFormat {
        name: "IA3 in PEFT's files",
        is_in: |folder| peft_type(folder).as_deref() == Some("IA3"),
        open: |folder| Ok(Box::new(Vectors::open(folder)?)),
        facts,
        merges: true,
    }),
};

fn parse(options: &Options) -> Result<Surgery> {
    let mut config: Ia3Config = options.read()?;
    if !options.gives(&["seed"])? {
        config.seed = options.seed;
    }
    config.modules().map_err(|error| options.error(&error.to_string()))?;
    Ok(Surgery::new(config))
}

impl Adaptation for Ia3Config {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, _: &mut Context) -> Result<Adapting> {
        let Adapting { model, mut what, .. } = adapting;
        let paths = adaptable(&model);
        let wrapping = Wrapping::choose(self.clone(), &paths)?;
        let model = model.map_projections(&mut |at, base| wrapping.projection(at, base))?;
        let chosen: Vec<_> = wrapping.chosen().map(|(at, side)| (at.clone(), side)).collect();
        let of = paths.len();
        what.push(format!("IA3 on {} of {of} projections", chosen.len()));
        let form = PeftIa3 {
            config: self.clone(),
            chosen,
        };
        Ok(Adapting {
            model,
            saved: Some(Saved::Beside(Box::new(form))),
            what,
        })
    }

    fn cost(&self, shape: &ModelShape) -> Result<Cost> {
        let wrapping = Wrapping::choose(self.clone(), &decoder::projection_paths(shape.config))?;
        let mut added = 0;
        for (at, side) in wrapping.chosen() {
            let name = format!("{at}.weight");
            let size = shape.tensors.iter().find(|(known, _)| *known == name);
            // A tied head has the embedding's shape.
            let size = size.map_or([shape.config.vocab_size, shape.config.hidden_size], |(_, size)| {
                [size[0], size[1]]
            });
            added += side.shape(size).iter().product::<i64>();
        }
        Ok(Cost {
            added: added as f64,
            ..Cost::default()
        })
    }
}

/// What a run writes.
#[derive(Debug)]
struct PeftIa3 {
    config: Ia3Config,
    chosen: Vec<(ModulePath, Side)>,
}

impl SavedForm for PeftIa3 {
    fn save(&self, folder: &Path, model: &Decoder, source: &Source) -> Result<()> {
        let task = low_rank::task(model);
        let chosen = self.chosen.iter().map(|(at, side)| (at, *side));
        let config = ::ia3::to_peft_config(&self.config, Some(source.name()), task, chosen);
        let mut tensors = ::ia3::adapter_tensors(model);
        if source.dir().config().is_of_multimodal {
            tensors = ::ia3::in_multimodal(tensors);
        }
        for (name, tensor) in &tensors {
            finite(name, tensor)?;
        }
        let shared = tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        Placement::new(&::ia3::from_peft_config(&config)?, shared).context("the adapter that is to be written")?;
        let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        write_tensors(&folder.join(WEIGHTS), named)?;
        write_file(&folder.join(CONFIG), serde_json::to_string_pretty(&config)?.as_bytes())?;
        Ok(())
    }
}

/// A saved adapter, checked in itself.
#[derive(Debug)]
struct Vectors {
    path: PathBuf,
    file: Map<String, Value>,
    config: Ia3Config,
    tensors: Vec<(String, Tensor)>,
}

impl Vectors {
    fn open(path: &Path) -> Result<Self> {
        let place = || format!("adapter `{}`", path.display());
        let text = std::fs::read(path.join(CONFIG)).with_context(place)?;
        let file: Map<String, Value> = serde_json::from_slice(&text).with_context(place)?;
        let config = ::ia3::from_peft_config(&file).with_context(place)?;
        let weights = Safetensors::open(&path.join(WEIGHTS)).with_context(place)?;
        let tensors = weights.names().map(|name| Ok((name.to_owned(), weights.tensor(name)?)));
        let vectors = Self {
            path: path.to_owned(),
            tensors: tensors.collect::<Result<_>>()?,
            config,
            file,
        };
        vectors.placement().with_context(place)?;
        Ok(vectors)
    }

    fn placement(&self) -> Result<Placement> {
        let shared = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        Ok(Placement::new(&self.config, shared)?)
    }

    fn labels(&self) -> Result<Option<Vec<String>>> {
        labels_of(&self.path, &self.tensors)
    }
}

impl Attached for Vectors {
    fn path(&self) -> &Path {
        &self.path
    }

    fn place(&self, model: Decoder) -> Result<Decoder> {
        let model = match self.labels()? {
            Some(labels) if *model.head_kind() == HeadKind::LanguageModel => {
                model.replace_head(HeadKind::Classification { labels }, 0)?
            }
            _ => model,
        };
        let placement = self.placement()?;
        let model = model.map_projections(&mut |at, base| placement.projection(at, base))?;
        placement.finish()?;
        Ok(model)
    }

    fn merging(&self) -> Result<Box<dyn Merging + '_>> {
        Ok(Box::new(Scaling {
            labels: self.labels()?,
            placement: self.placement()?,
        }))
    }
}

/// Vectors on their way into the base's tensors.
struct Scaling {
    labels: Option<Vec<String>>,
    placement: Placement,
}

impl Merging for Scaling {
    fn touches(&self, module: &str) -> bool {
        self.placement.touches(&ModulePath::from(module))
    }

    fn labels(&self) -> Result<Option<Vec<String>>> {
        Ok(self.labels.clone())
    }

    fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        self.placement.projection(at, base)
    }

    fn param(&self, at: &ModulePath, param: Param) -> tensor_core::Result<Param> {
        self.placement.merged_param(at, param)
    }

    fn finish(&self) -> Result<()> {
        Ok(self.placement.finish()?)
    }
}

fn facts(path: &Path) -> Result<Map<String, Value>> {
    let vectors = Vectors::open(path)?;
    let parameters: usize = vectors.tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    put("kind", json!("adapter"));
    put("path", json!(path.display().to_string()));
    put("type", json!("IA3"));
    put("method", json!("IA3"));
    let of_file = |key: &str| vectors.file.get(key).cloned().unwrap_or_default();
    put("task", of_file("task_type"));
    put("base", of_file("base_model_name_or_path"));
    put("modules", of_file("target_modules"));
    put("scaled_by_inputs", of_file("feedforward_modules"));
    put("parameters", json!(parameters));
    put("labels", json!(vectors.labels()?));
    if let Some(quantisation) = Quantisation::of_adapter(path)? {
        put("trained_over", json!(quantisation.to_string()));
    }
    Ok(facts)
}
