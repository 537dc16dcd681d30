//! A recipe's methods applied to a model, in order.

use ::lora::Originals;
use anyhow::{Context as _, Result, bail};
use decoder::{Decoder, HeadKind, projection_paths};
use events::Events;
use memory_tuning::MemoryBank;
use models::Source;
use models::machine::{Dtype, Machine};
use models::quantised::Quantisation;
use models::zeros::Zeros;
use quant::Quantizing;
use tch::Tensor;
use tensor_core::ModulePath;

use super::saved::Saved;
use crate::recipe::Recipe;

/// A model that trains, and what is written of it.
#[derive(Debug)]
pub struct Adapted {
    /// The model.
    pub model: Decoder,
    /// What is written.
    pub saved: Saved,
    /// How the base under an adapter was packed, if it was.
    pub quantisation: Option<Quantisation>,
    /// In words, for people.
    pub what: String,
}

impl Adapted {
    /// The memory that trains in it, if there is one.
    pub fn memory(&self) -> Option<&MemoryBank> {
        match &self.saved {
            Saved::Whole => None,
            Saved::Beside(form) => form.memory(),
        }
    }
}

/// A model between two methods: nothing says yet what is written until one of them makes something train.
#[derive(Debug)]
pub struct Adapting {
    /// The model.
    pub model: Decoder,
    /// What is written of it.
    pub saved: Option<Saved>,
    /// What was done, in words, for people.
    pub what: Vec<String>,
}

/// The projections that an adapter may change, each with whether it gives the model's output: all of them, but not a new
/// head, which trains whole and is saved with the adapter; an update of it would be lost in its noise.
pub(super) fn adaptable(model: &Decoder) -> Vec<(ModulePath, bool)> {
    let mut paths = model.projection_paths();
    if *model.head_kind() != HeadKind::LanguageModel {
        paths.retain(|(_, is_output)| !is_output);
    }
    paths
}

/// What a method may need besides the model.
pub struct Context<'a> {
    /// The recipe that it stands in.
    pub recipe: &'a Recipe,
    /// Weights as they were, one by one from the files, where they were packed while they were read.
    pub originals: Option<&'a Originals<'a>>,
    /// The zeros that the model had before anything lay over them, where they shall stay.
    pub zeros: Option<Zeros>,
    /// Whoever follows the work.
    pub events: &'a Events,
}

/// The recipe's model; if its first method packs weights, no dense weight outlives the reading of the next.
pub fn load(source: &Source, machine: Machine, recipe: &Recipe) -> Result<Decoder> {
    let router = recipe.router_options();
    let Some(config) = recipe.surgery.first().and_then(|surgery| surgery.packs()) else {
        return source.decoder_routed(machine, &router, &mut |_, projection| Ok(projection));
    };
    let quantizing = Quantizing::choose(config.clone(), &projection_paths(source.dir().config()))?;
    source.decoder_routed(machine, &router, &mut |at, base| quantizing.projection(at, base))
}

/// Applies the recipe's methods; `model` has its final head.
///
/// Errors: what [`Recipe::fits`] refuses, and what only the weights tell.
pub fn apply(model: Decoder, recipe: &Recipe, source: &Source) -> Result<Adapted> {
    recipe.fits(source.dir())?;
    let keeps_zeros = recipe.surgery.iter().position(|surgery| surgery.keeps_zeros());
    let mut adapting = Adapting {
        model,
        saved: None,
        what: Vec::new(),
    };
    let kind = adapting.model.kind();
    let dense = |at: &ModulePath| -> tensor_core::Result<Tensor> {
        let weight = source.dir().tensor_as(&source.stored(at.join("weight").as_str()), kind);
        weight.map_err(|error| tensor_core::Error::Surgery {
            at: at.clone(),
            source: Box::new(error),
        })
    };
    let packing = recipe.surgery.first().and_then(|surgery| surgery.packs());
    let originals: Option<&Originals> = packing.is_some().then_some(&dense);
    let mut context = Context {
        recipe,
        originals,
        zeros: None,
        events: source.events(),
    };
    let mut has_seen_zeros = false;
    for (idx, surgery) in recipe.surgery.iter().enumerate() {
        // What is zero is seen before anything lies over it.
        if let (Some(keeps), false, false) = (keeps_zeros, has_seen_zeros, surgery.makes_zeros()) {
            let place = || format!("`surgery.{keeps}`");
            if packing.is_some() {
                Zeros::expect_before(&adapting.model, dense).with_context(place)?;
            }
            let (model, found) = Zeros::of(adapting.model).with_context(place)?;
            adapting.model = model;
            context.zeros = Some(found);
            has_seen_zeros = true;
        }
        adapting = surgery
            .apply(adapting, &mut context)
            .with_context(|| format!("`surgery.{idx}`"))?;
    }
    let Some(saved) = adapting.saved else {
        bail!("no surgery of this recipe makes anything train\nhint: add `[[surgery]]` with `kind = \"lora\"`");
    };
    let quantisation = match packing {
        Some(config) => Some(Quantisation {
            config: config.clone(),
            dtype: Dtype::of(adapting.model.kind()),
        }),
        None => Quantisation::of_model(source.dir())?,
    };
    Ok(Adapted {
        model: adapting.model,
        quantisation,
        saved,
        what: adapting.what.join(", "),
    })
}
