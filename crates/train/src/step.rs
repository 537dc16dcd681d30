//! One optimiser step's gradients: row by row, each loss divided by what all rows weigh together.

use std::collections::BTreeMap;

use tensor_core::{CheckpointingPolicy, DropoutKey, LanguageModel, ModelPass, Objective};

use crate::{Batches, Error, Result, Row, Tallies};

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// The mean loss over the step's weight, side losses included.
    pub loss: f64,
    /// The objective's metrics, as means over the step's weight; and `side_loss`, where layers add one.
    pub metrics: BTreeMap<String, f64>,
    /// The objective's ratios: the sum and the count of each over the step.
    pub ratios: BTreeMap<String, (f64, f64)>,
    /// Tokens that went through the model.
    pub num_tokens: usize,
    /// What layers counted.
    pub tallies: Tallies,
}

/// Adds the gradients of step `step` (from 0) to the parameters.
pub(crate) fn accumulate<B>(
    model: &dyn LanguageModel,
    objective: &dyn Objective<Batch = B>,
    batches: &dyn Batches<B>,
    plan: &CheckpointingPolicy,
    at: (usize, DropoutKey),
) -> Result<StepReport> {
    let (step, key) = at;
    let number = step + 1;
    let rows = batches
        .rows(step)
        .map_err(|source| Error::Rows { step: number, source })?;
    let total: f64 = rows.iter().map(|row| objective.weight(&row.batch)).sum();
    if !(total > 0.0 && total.is_finite()) {
        return Err(Error::NoWeight {
            step: number,
            num_rows: rows.len(),
            weight: total,
        });
    }
    let mut report = StepReport::default();
    for (idx, Row { batch, num_tokens }) in rows.into_iter().enumerate() {
        let failed = |source| Error::Step { step: number, source };
        let policy = if objective.drops_out() {
            ModelPass::train(model, plan, key.at(number as u64).at(idx as u64))
        } else {
            ModelPass::train_without_dropout(model, plan)
        };
        let loss = objective.loss(&policy, &batch).map_err(failed)?;
        let share = objective.weight(&batch) / total;
        let (sum, side) = (loss.sum.double_value(&[]), policy.side_total());
        if !(sum + side).is_finite() {
            return Err(Error::LossNotFinite {
                step: number,
                row: idx + 1,
                loss: sum + side,
                place: place(model, batches, plan, &batch),
                saved: String::new(),
            });
        }
        report.loss += sum / total + side * share;
        if side != 0.0 {
            *report.metrics.entry("side_loss".into()).or_default() += side * share;
        }
        for &(name, value) in &loss.metrics {
            *report.metrics.entry(name.into()).or_default() += value / total;
        }
        for &(name, sum, count) in &loss.ratios {
            let ratio = report.ratios.entry(name.into()).or_default();
            *ratio = (ratio.0 + sum, ratio.1 + count);
        }
        report.num_tokens += num_tokens;
        for (at, counts) in policy.tallies() {
            let sums = report.tallies.entry(at).or_insert_with(|| vec![0.0; counts.len()]);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        policy.backward(&loss, 1.0 / total, share).map_err(failed)?;
    }
    Ok(report)
}

/// Where the first number that is none was made.
fn place<B>(model: &dyn LanguageModel, batches: &dyn Batches<B>, plan: &CheckpointingPolicy, batch: &B) -> String {
    let Some((tokens, documents)) = batches.input(batch) else {
        return "which block made it is not known".into();
    };
    let num_blocks = model.num_blocks();
    match ModelPass::evaluate(model, plan).first_non_finite(tokens, documents) {
        Some(block) if block == num_blocks => "the last norm made it; every block's output is finite".into(),
        Some(block) => format!(
            "block {block} (of 0 to {}) is the first whose output is not finite",
            num_blocks - 1
        ),
        None => "every block's output is finite: the head or the objective made it".into(),
    }
}
