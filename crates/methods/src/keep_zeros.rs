//! `kind = "keep_zeros"`: what was pruned from the base is not trained back.

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Options, Saved, Trains};
use crate::recipe::Surgery;
use crate::recipe::combinations::Rule;
use crate::recipe::combinations::modules::pruned_whole;

pub(super) static METHOD: Method = Method {
    kind: "keep_zeros",
    summary: "Keeps the zeros of a pruned model under what trains over them",
    schema: KeepZerosConfig::json_schema,
    example: "",
    trains: Trains::Nothing,
    reshapes: false,
    parse,
    rules: RULES,
    format: None,
};

/// What it cannot go together with.
const RULES: &[Rule] = &[
    Rule {
        name: "keep-zeros-not-last",
        combination: "`keep_zeros` as the first surgery, or before another one",
        why: "what trains must be there before it, and nothing comes over it",
        hint: "make `keep_zeros` the last `[[surgery]]`",
        meets: |c| {
            let last = c.surgery.len().saturating_sub(1);
            c.surgery_where(|surgery, before| surgery.keeps_zeros() && (before.is_empty() || before.len() != last))
        },
    },
    Rule {
        name: "keep-zeros-alone",
        combination: "`keep_zeros` where nothing trains before it",
        why: "nothing trains before it",
        hint: "put `kind = \"keep_zeros\"` behind the surgery that trains",
        meets: |c| {
            c.surgery_where(|surgery, before| {
                surgery.keeps_zeros() && !before.iter().any(Surgery::makes_something_train)
            })
        },
    },
    Rule {
        name: "keep-zeros-over-frozen-base",
        combination: "`keep_zeros` over {beside}",
        why: "what trains leaves the zeros of the base as they are, so they stay without it",
        hint: "remove `kind = \"keep_zeros\"`",
        meets: |c| {
            let leaves_base = |surgery: &Surgery| surgery.trains() == Trains::Beside;
            c.surgery_where(|surgery, before| surgery.keeps_zeros() && before.iter().any(leaves_base))
        },
    },
    Rule {
        name: "keep-zeros-with-dropout",
        combination: "`keep_zeros` over `lora` with `lora_dropout` above 0",
        why: "an update with dropout cannot be masked: each token would meet another matrix",
        hint: "set `lora_dropout = 0`",
        meets: |c| {
            let drops = |surgery: &Surgery| surgery.trains() == Trains::Update && surgery.dropout() > 0.0;
            c.surgery_where(|surgery, before| surgery.keeps_zeros() && before.iter().any(drops))
        },
    },
    Rule {
        name: "keep-zeros-over-whole",
        combination: "`keep_zeros` over `lora` with a pruned matrix in `modules_to_save`",
        why: "a matrix that `modules_to_save` trains whole has no mask, so its zeros would not stay",
        hint: "leave it out of `modules_to_save`: an update of low rank stays under the mask",
        meets: |c| {
            c.has(|surgery| surgery.keeps_zeros())
                .then(|| pruned_whole(c))
                .flatten()
        },
    },
];

/// Options of `keep_zeros`: none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
