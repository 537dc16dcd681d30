//! The evaluation sets during training: loss, perplexity, and what else the objective counts, each set for itself.

use std::collections::BTreeMap;

use anyhow::Result;
use events::Events;
use methods::recipe::{ObjectiveConfig, Recipe};
use tch::Device;
use tensor_core::{Checkpointing, CheckpointingPolicy, LanguageModel, ModelPass, Objective};

use super::rows::ToRow;
use super::sets::Sets;
use super::steps::Steps;

/// Everything that is measured.
pub struct Evaluation<'d> {
    sets: Vec<(&'d str, Steps<'d>)>,
    has_perplexity: bool,
}

impl<'d> Evaluation<'d> {
    /// Over the recipe's evaluation sets; `known` says, if anything, how likely each one's replies are under the
    /// reference.
    pub fn new(
        sets: &'d Sets,
        recipe: &Recipe,
        known: Option<&[Vec<f32>]>,
        (device, events): (Device, &Events),
    ) -> Result<Self> {
        let steps = sets.eval.iter().enumerate().map(|(idx, (name, set))| {
            let steps = Steps::once(set, recipe, device)?.with_events(events);
            Ok((
                name.as_str(),
                match known {
                    Some(known) => steps.with_known(vec![known[idx].clone()]),
                    None => steps,
                },
            ))
        });
        Ok(Self {
            sets: steps.collect::<Result<_>>()?,
            // Of no other objective is the loss the mean negative log-probability of a token.
            has_perplexity: matches!(recipe.objective, ObjectiveConfig::Sft(_)),
        })
    }

    /// `loss` over all sets together, and `NAME_loss` and the objective's counts of each; `NAME_perplexity` where the loss
    /// is a token's.
    pub fn measure<B: ToRow>(
        &self,
        model: &dyn LanguageModel,
        objective: &dyn Objective<Batch = B>,
    ) -> Result<Vec<(String, f64)>> {
        let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, model.num_blocks());
        let mut measured = Vec::new();
        let (mut total_loss, mut total_weight) = (0.0, 0.0);
        for (name, steps) in &self.sets {
            let (mut loss, mut weight) = (0.0, 0.0);
            let mut counts: BTreeMap<&'static str, f64> = BTreeMap::new();
            let mut ratios: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
            for step in 0..steps.len() {
                for row in steps.tensors::<B>(step)? {
                    let policy = ModelPass::evaluate(model, &plan);
                    let found = tch::no_grad(|| objective.loss(&policy, &row.batch))?;
                    loss += found.sum.double_value(&[]);
                    weight += objective.weight(&row.batch);
                    for (count, value) in found.metrics {
                        *counts.entry(count).or_default() += value;
                    }
                    for (name, sum, count) in found.ratios {
                        let ratio = ratios.entry(name).or_default();
                        *ratio = (ratio.0 + sum, ratio.1 + count);
                    }
                }
            }
            measured.push((format!("{name}_loss"), loss / weight));
            if self.has_perplexity {
                measured.push((format!("{name}_perplexity"), (loss / weight).exp()));
            }
            measured.extend(
                counts
                    .into_iter()
                    .map(|(count, value)| (format!("{name}_{count}"), value / weight)),
            );
            let ratios = ratios.into_iter().filter(|(_, (_, count))| *count > 0.0);
            measured.extend(ratios.map(|(ratio, (sum, count))| (format!("{name}_{ratio}"), sum / count)));
            total_loss += loss;
            total_weight += weight;
        }
        measured.insert(0, ("loss".to_owned(), total_loss / total_weight));
        Ok(measured)
    }
}
