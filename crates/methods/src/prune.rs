//! `kind = "prune"`: weights become zero before anything trains.

use anyhow::Result;
use prune::PruneConfig;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Options, Trains};
use crate::pruning::{self, CalibrationConfig, Samples};
use crate::recipe::Surgery;
use crate::recipe::combinations::Rule;

pub(super) static METHOD: Method = Method {
    kind: "prune",
    summary: "Makes weights zero before the model trains: by magnitude, Wanda or SparseGPT",
    schema: PruneOptions::json_schema,
    example: "method = 'magnitude'\nsparsity = 0.5",
    trains: Trains::Nothing,
    reshapes: true,
    parse,
    rules: RULES,
    format: None,
};

/// What it cannot go together with.
const RULES: &[Rule] = &[Rule {
    name: "prune-under-adapter",
    combination: "`prune` in a recipe with {adapters}",
    why: "an adapter's file does not hold its base, so a base that is pruned here would be lost",
    hint: "prune it first, by `finetune prune`, and train the adapter over what that writes",
    meets: |c| c.kind_where("prune", |_| c.has(Surgery::is_adapter)),
}];

/// Options of `prune`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PruneOptions {
    /// What goes.
    #[serde(flatten)]
    pub rule: PruneConfig,
    /// What is looked at.
    #[serde(flatten)]
    pub text: CalibrationConfig,
}

const TEXT: [&str; 4] = ["calibration", "nsamples", "max_length", "seed"];

/// Without a seed of its own it takes the run's.
fn parse(options: &Options) -> Result<Surgery> {
    let Some(rule) = options.part::<PruneConfig>(|key| key != "kind" && !TEXT.contains(&key))? else {
        return Err(options.error("is missing"));
    };
    let mut text: CalibrationConfig = options.part(|key| TEXT.contains(&key))?.unwrap_or_default();
    if !options.gives(&["seed"])? {
        text.seed = options.seed;
    }
    if let Some(path) = &mut text.calibration {
        let wanted = path.display().to_string();
        *path = options
            .places
            .data(&wanted)
            .ok_or_else(|| options.error_at("calibration", &format!("no such file: `{wanted}`")))?;
    }
    let plan = rule.plan().map_err(|error| options.error(&error.to_string()))?;
    match (plan.needs_calibration(), &text.calibration) {
        (true, None) => {
            let what = "`calibration` is missing: this method looks at text\nhint: name a file of the kind of text that the model will read";
            Err(options.error(what))
        }
        (false, Some(_)) => {
            let what = "this method looks at no text\nhint: remove it";
            Err(options.error_at("calibration", what))
        }
        _ => Ok(Surgery::new(PruneOptions { rule, text })),
    }
}

impl Adaptation for PruneOptions {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, context: &mut Context) -> Result<Adapting> {
        let Adapting { model, saved, mut what } = adapting;
        let plan = self.rule.plan()?;
        let samples = match plan.needs_calibration() {
            true => {
                let tokenizer = context.recipe.model.open(context.events)?.tokenizer()?;
                Samples::read(&self.text, true, &tokenizer, model.config(), context.events)?
            }
            false => None,
        };
        let (model, thinned) = pruning::thin(model, &plan, samples.as_ref(), context.events)?;
        let (zeros, all) = thinned.iter().fold((0, 0), |(zeros, all), one| {
            (zeros + one.num_zeros, all + (one.shape[0] * one.shape[1]) as usize)
        });
        what.push(format!(
            "{:.1} % of {} matrices pruned by {}",
            100.0 * zeros as f64 / all as f64,
            thinned.len(),
            self.rule.method.name()
        ));
        Ok(Adapting { model, saved, what })
    }

    /// A matrix at a time is pruned, and nothing of it stays.
    fn cost(&self, _: &ModelShape) -> Result<Cost> {
        Ok(Cost::default())
    }

    fn makes_zeros(&self) -> bool {
        true
    }

    fn costs_time_in_each_step(&self) -> bool {
        false
    }
}
