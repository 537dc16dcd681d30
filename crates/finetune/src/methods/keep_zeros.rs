//! `kind = "keep_zeros"`: what was pruned from the base is not trained back.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Options, Saved, Trains};
use crate::recipe::Surgery;

pub(super) static METHOD: Method = Method {
    kind: "keep_zeros",
    summary: "Keeps the zeros of a pruned model under what trains over them",
    trains: Trains::Nothing,
    parse,
    format: None,
};

/// Options of `keep_zeros`: none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepZerosConfig {}

fn parse(options: &Options) -> Result<Surgery> {
    Ok(Surgery::new(options.read::<KeepZerosConfig>()?))
}

impl Adaptation for KeepZerosConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, context: &mut Context) -> Result<Adapting> {
        let Adapting {
            model,
            mut saved,
            mut what,
        } = adapting;
        if let Some(Saved::Beside(form)) = &mut saved {
            form.keep_zeros();
        }
        let zeros = context.zeros.take().unwrap_or_default();
        let (count, share) = zeros.counts();
        what.push(format!("{:.1} % of {count} matrices stay zero", 100.0 * share));
        Ok(Adapting {
            model: zeros.keep(model)?,
            saved,
            what,
        })
    }

    /// A matrix at a time is masked, and nothing of it stays.
    fn cost(&self, _: &ModelShape) -> Result<Cost> {
        Ok(Cost::default())
    }

    fn keeps_zeros(&self) -> bool {
        true
    }

    fn costs_time_in_each_step(&self) -> bool {
        false
    }
}
