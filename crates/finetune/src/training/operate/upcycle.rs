//! `kind = "upcycle"`: each dense feed-forward becomes a mixture of experts.

use anyhow::{Result, bail};
use kernels::Activation;
use moe::UpcycleConfig;
use tensor_core::ModulePath;

use super::Patient;
use crate::experts::RouterOptions;

pub(super) fn operate(patient: Patient, config: &UpcycleConfig, router: &RouterOptions) -> Result<Patient> {
    let Patient { model, kept, mut what } = patient;
    let (e, k) = (config.num_local_experts, config.num_experts_per_tok);
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
        let layer = config.mixture((from, &at), dense, activation, balance);
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
    Ok(Patient { model, kept, what })
}
