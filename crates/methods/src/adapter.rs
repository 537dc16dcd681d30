//! `kind = "adapter"`: bottleneck adapters behind or beside frozen sublayers.

use schemars::JsonSchema as _;
use std::path::Path;

use adapters::{AdapterConfig, Insertion};
use anyhow::Result;
use decoder::Decoder;
use models::Source;
use serde_json::{Map, Value, json};
use tensor_core::{LanguageModel as _, Role};

use super::{
    Adaptation, Adapting, Attached, Context, Cost, Merging, Method, ModelShape, Options, Saved, SavedForm, SavedFormat,
    Trains,
};
use crate::bottleneck::{self, Bottlenecks};
use crate::recipe::Surgery;

pub(super) static METHOD: Method = Method {
    kind: "adapter",
    summary: "Puts small bottleneck networks behind or beside frozen sublayers",
    schema: AdapterConfig::json_schema,
    example: "reduction_factor = 4",
    trains: Trains::Beside,
    reshapes: false,
    parse,
    rules: &[],
    format: Some(&SavedFormat {
        name: "bottleneck adapters",
        is_in: bottleneck::is_in,
        open: |folder| Ok(Box::new(Bottlenecks::open(folder)?)),
        facts,
        merges: false,
    }),
};

fn parse(options: &Options) -> Result<Surgery> {
    let mut config: AdapterConfig = options.read()?;
    if !options.gives(&["seed"])? {
        config.seed = options.seed;
    }
    Ok(Surgery::new(config))
}

impl Adaptation for AdapterConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, _: &mut Context) -> Result<Adapting> {
        let Adapting { model, mut what, .. } = adapting;
        let (width, layers) = (model.config().hidden_size, model.num_blocks());
        let insertion = Insertion::new(self.clone(), width, layers, model.device())?;
        let mut model = model.map_sublayers(&mut |at, inner| insertion.sublayer(at, inner))?;
        let count = self.num_parameters(width, layers);
        what.push(format!("bottleneck adapters of {count} numbers in {layers} layers"));
        if self.train_norms {
            model = model.train_where(|at, role| role == Role::Norm && at.as_str().ends_with("norm.weight"))?;
            what.push("norms".to_owned());
        }
        Ok(Adapting {
            model,
            saved: Some(Saved::Beside(Box::new(self.clone()))),
            what,
        })
    }

    fn cost(&self, shape: &ModelShape) -> Result<Cost> {
        let unfrozen = match self.train_norms {
            true => shape.numbers(|name| name.ends_with("norm.weight")),
            false => 0.0,
        };
        Ok(Cost {
            added: self.num_parameters(shape.config.hidden_size, shape.config.num_hidden_layers) as f64,
            unfrozen,
            ..Cost::default()
        })
    }

    fn dropout(&self) -> f64 {
        self.dropout
    }
}

impl SavedForm for AdapterConfig {
    fn save(&self, folder: &Path, model: &Decoder, source: &Source) -> Result<()> {
        bottleneck::save(folder, self, model, source.name())
    }
}

impl Attached for Bottlenecks {
    fn path(&self) -> &Path {
        self.path()
    }

    fn place(&self, model: Decoder) -> Result<Decoder> {
        self.place(model)
    }

    fn merging(&self) -> Result<Box<dyn Merging + '_>> {
        Err(adapters::Error::NotLinear.into())
    }
}

fn facts(path: &Path) -> Result<Map<String, Value>> {
    let adapters = Bottlenecks::open(path)?;
    let (file, config) = (adapters.file(), adapters.config());
    let parameters: usize = adapters.tensors().iter().map(|(_, tensor)| tensor.numel()).sum();
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    put("kind", json!("adapter"));
    put("path", json!(path.display().to_string()));
    put("method", json!("bottleneck adapters"));
    put("base", file.get("model_name").cloned().unwrap_or_default());
    let options = serde_json::to_value(config)?;
    for (name, value) in options
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "seed")
    {
        put(name, value.clone());
    }
    put("parameters", json!(parameters));
    put("labels", json!(adapters.labels()?));
    Ok(facts)
}
