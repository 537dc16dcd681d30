//! `kind = "upcycle"`: each dense feed-forward becomes a mixture of experts.

use anyhow::{Result, bail};
use checkpoint::{Family, ModelConfig};
use kernels::Activation;
use models::experts::RouterOptions;
use moe::UpcycleConfig;
use schemars::JsonSchema as _;
use tensor_core::ModulePath;

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Options, Trains};
use crate::recipe::Surgery;
use crate::recipe::combinations::Rule;

pub(super) static METHOD: Method = Method {
    kind: "upcycle",
    summary: "Turns each dense feed-forward into a mixture of experts that begin as copies of it",
    schema: UpcycleConfig::json_schema,
    example: "num_local_experts = 3\nnum_experts_per_tok = 2",
    trains: Trains::Nothing,
    reshapes: true,
    parse,
    rules: RULES,
    format: None,
};

/// What it cannot go together with.
const RULES: &[Rule] = &[
    Rule {
        name: "upcycle-under-adapter",
        combination: "`upcycle` in a recipe with {adapters}",
        why: "an adapter is kept beside its base, and a model upcycled in the run is no file",
        hint: "write it with `finetune upcycle` first, and train the adapter over that",
        meets: |c| c.kind_where("upcycle", |_| c.has(Surgery::is_adapter)),
    },
    Rule {
        name: "upcycle-family",
        combination: "`upcycle` over a model with biases or experts, or of another family than Llama or Mistral",
        why: "a Llama or Mistral without biases can be given experts, as a Mixtral; this model cannot",
        hint: "take such a model",
        meets: |c| {
            let config = c.base?.config();
            let has_biases = config.qkv_bias || config.o_bias || config.mlp_bias;
            let can = matches!(config.family, Family::Llama | Family::Mistral) && !has_biases;
            c.kind_where("upcycle", |_| !can)
        },
    },
    Rule {
        name: "router-without-experts",
        combination: "`[router]` for a model without experts",
        why: "this model has no experts",
        hint: "remove the section, or add `kind = \"upcycle\"`",
        meets: |c| {
            let has_experts = c.base?.config().experts.is_some() || c.has_kind("upcycle");
            (c.router.is_some() && !has_experts).then(|| "router".to_owned())
        },
    },
    Rule {
        name: "router-chooses-upcycled",
        combination: "`[router]` with `gating` or `skip_below`, and `upcycle`",
        why: "`gating` and `skip_below` wanted a model with experts, found one that `kind = \"upcycle\"` gives them",
        hint: "write the mixture with `finetune upcycle`, and train that",
        meets: |c| {
            let chooses = c.router.is_some_and(RouterOptions::chooses);
            (chooses && c.has_kind("upcycle")).then(|| "router".to_owned())
        },
    },
];

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

    fn configuration(&self, config: ModelConfig) -> Result<ModelConfig> {
        let (e, k) = (self.num_local_experts as i64, self.num_experts_per_tok as i64);
        Ok(config.with_experts(e, k)?)
    }
}
