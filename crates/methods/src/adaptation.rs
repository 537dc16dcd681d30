//! A method's options, read and checked: what can be asked of them.

use std::any::Any;
use std::fmt::Debug;
use std::path::Path;

use ::lora::LoraConfig;
use anyhow::Result;
use checkpoint::ModelConfig;
use decoder::Decoder;
use quant::QuantizeConfig;
use serde::Serialize;
use serde_json::Value;

use super::hft::Half;
use super::{Adapting, Context, Cost, Method, ModelShape};

/// What a method makes train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trains {
    /// Nothing: it changes the model, or what another method trains.
    Nothing,
    /// The model's own weights; the run writes a whole model.
    Weights,
    /// An update that is added to frozen weights and saved without them.
    Update,
    /// Something else beside or around frozen weights, saved without them: what is zero in them stays zero.
    Beside,
}

impl Trains {
    /// Whether what trains is saved without the base.
    pub fn is_adapter(self) -> bool {
        matches!(self, Self::Update | Self::Beside)
    }
}

/// One configured method of a recipe.
///
/// A trait, not an enum: the rules, `estimate`, the reference of an objective and the loader ask it questions, so that a
/// new method is a file and an entry of [`super::METHODS`], and no other file names it. Only [`Self::method`],
/// [`Self::apply`] and [`Self::cost`] have no default.
pub trait Adaptation: Any + Debug + Resolved + Send + Sync {
    /// Its entry in [`super::METHODS`].
    fn method(&self) -> &'static Method;

    /// Changes the model; errors are those that only the weights tell, the rules have been asked before.
    fn apply(&self, adapting: Adapting, context: &mut Context) -> Result<Adapting>;

    /// The numbers that it adds, trains and packs in a model of this shape.
    fn cost(&self, shape: &ModelShape) -> Result<Cost>;

    /// How the model's weights are packed while they are read, if they are.
    fn packs(&self) -> Option<&QuantizeConfig> {
        None
    }

    /// Whether it comes before what the model's zeros are.
    fn makes_zeros(&self) -> bool {
        false
    }

    /// Whether the zeros that the model has before anything trains stay.
    fn keeps_zeros(&self) -> bool {
        false
    }

    /// Whether a step of training takes longer with it: not where all is done before the first step.
    fn costs_time_in_each_step(&self) -> bool {
        true
    }

    /// The probability with which what it adds drops out of training.
    fn dropout(&self) -> f64 {
        0.0
    }

    /// The options of its low-rank updates, if it has any.
    fn low_rank(&self) -> Option<&LoraConfig> {
        None
    }

    /// The configuration of the model that it makes of one with this configuration.
    fn configuration(&self, config: ModelConfig) -> Result<ModelConfig> {
        Ok(config)
    }

    /// What changes from round to round about which parameters of `model` train.
    fn halves(&self, _model: &Decoder) -> Result<Option<Half>> {
        Ok(None)
    }

    /// The folder of the saved form that training continues from.
    fn continues_from(&self) -> Option<&Path> {
        None
    }
}

/// Options with every default, as a recipe would give them.
pub trait Resolved {
    /// An object of the options' keys.
    fn resolved(&self) -> serde_json::Result<Value>;
}

impl<T: Serialize> Resolved for T {
    fn resolved(&self) -> serde_json::Result<Value> {
        serde_json::to_value(self)
    }
}
