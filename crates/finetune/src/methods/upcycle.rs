//! `kind = "upcycle"`: each dense feed-forward becomes a mixture of experts.

use anyhow::{Result, bail};
use checkpoint::ModelConfig;
use kernels::Activation;
use moe::UpcycleConfig;
use tensor_core::ModulePath;

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Options, Trains};
use crate::recipe::Surgery;

pub(super) static METHOD: Method = Method {
    kind: "upcycle",
    summary: "Turns each dense feed-forward into a mixture of experts that begin as copies of it",
    trains: Trains::Nothing,
    parse,
    format: None,
};

fn parse(options: &Options) -> Result<Surgery> {
    let mut config: UpcycleConfig = options.read()?;
    if !options.gives(&["seed"])? {
        config.seed = options.seed;
    }
    config.check().map_err(|error| options.error(&error.to_string()))?;
    Ok(Surgery::new(config))
}

impl Adaptation for UpcycleConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, context: &mut Context) -> Result<Adapting> {
        let Adapting { model, saved, mut what } = adapting;
        let router = context.recipe.router_options();
        let (e, k) = (self.num_local_experts, self.num_experts_per_tok);
        let sparse = model.config().clone().with_experts(e as i64, k as i64)?;
        let activation = match sparse.hidden_act {
            checkpoint::Activation::Silu => Activation::Silu,
            checkpoint::Activation::GeluTanh => Activation::GeluTanh,
        };
        let Some(experts) = sparse.experts.clone() else {
            bail!("`kind = \"upcycle\"`: a {} has no experts", sparse.family.name());
        };
        let (balance, device) = (router.balance(&experts), model.device());
        let model = model.replace_feed_forwards(sparse.clone(), &mut |from, dense| {
            let block = ModulePath::from(from.as_str().trim_end_matches(".mlp"));
            let at = block.join(experts.names.sublayer());
            let layer = self.mixture((from, &at), dense, activation, balance);
            let layer = layer.and_then(|layer| match router.new_bias(e as i64, device) {
                Some(bias) => layer.with_router_bias(bias),
                None => Ok(layer),
            });
            match layer {
                Ok(layer) => Ok(Box::new(layer)),
                Err(error) => Err(tensor_core::Error::Surgery {
                    at: from.clone(),
                    source: Box::new(error),
                }),
            }
        })?;
        what.push(format!("upcycled to {e} experts a layer, {k} a token"));
        Ok(Adapting { model, saved, what })
    }

    /// Nothing of its own: the experts are those of the model's configuration.
    fn cost(&self, _: &ModelShape) -> Result<Cost> {
        Ok(Cost::default())
    }

    fn reshapes(&self) -> bool {
        true
    }

    fn configuration(&self, config: ModelConfig) -> Result<ModelConfig> {
        let (e, k) = (self.num_local_experts as i64, self.num_experts_per_tok as i64);
        Ok(config.with_experts(e, k)?)
    }
}
