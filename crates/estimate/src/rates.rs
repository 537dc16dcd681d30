//! How fast this machine trains this model: its first blocks, under the recipe's surgeries, learn from rows of the run's
//! own length for a moment.
//!
//! Two such models of different depth tell what a block costs and what everything else costs; a deeper model costs so
//! many blocks more.

use std::path::Path;
use std::time::Instant;

use align_dpo_ppo::{RewardLoss, ScoredRow};
use anyhow::{Context as _, Result, ensure};
use checkpoint::{Existing, TensorInfo};
use decoder::loss::{ClassificationLoss, IGNORED, LabelledRow, SupervisedLoss, TokenRow};
use decoder::{Decoder, EndTokens, GenerateOptions, HeadKind, Sampler};
use methods::recipe::{ObjectiveConfig, Recipe};
use methods::{self, Adapted};
use models::Source;
use models::machine::Machine;
use session::training::rows::ToRow;
use session::training::states;
use session::training::steps::Steps;
use tch::Tensor;
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel as _, ModelPass, Objective,
};
use train::{Optimizer, Row};

/// Depths of the models that are measured.
const DEPTHS: [usize; 2] = [1, 3];
/// The most tokens that are learnt from in one measurement, and how often it is made.
const MOST_TOKENS: usize = 4096;
const TIMES: usize = 3;
/// Tokens that each reply is written for.
const WRITTEN: usize = 8;

/// Seconds of one block, and of everything outside the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    block: f64,
    rest: f64,
}

/// What parts of a step cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// For each token that is learnt from.
    pub(crate) learn: Cost,
    /// For each optimiser step: the update of what trains.
    pub(crate) update: Cost,
    /// For each token of a reply that is written.
    pub(crate) write: Cost,
}

/// Replies that are written side by side, each after a prompt of some length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replies {
    pub(crate) at_once: usize,
    pub(crate) prompt: usize,
    pub(crate) reply: usize,
}

impl Cost {
    /// From what models of two depths cost; a model of one depth only is all blocks.
    fn of(found: &[(usize, f64)]) -> Self {
        match found {
            [(low, few), .., (high, many)] if high > low => {
                let block = ((many - few) / (high - low) as f64).max(0.0);
                Self {
                    block,
                    rest: (few - block * *low as f64).max(0.0),
                }
            }
            [(depth, cost), ..] => Self {
                block: cost / *depth as f64,
                rest: 0.0,
            },
            [] => Self::default(),
        }
    }

    /// Seconds of a model of so many blocks.
    pub(crate) fn at(self, blocks: usize) -> f64 {
        self.rest + blocks as f64 * self.block
    }
}

/// What is measured of a model of one depth.
#[derive(Clone, Copy, Debug)]
struct Found {
    learn: f64,
    update: f64,
    write: f64,
}

/// Measures; `steps` are the run's own rows, where it has them, `replies` what it writes, where it does.
pub(crate) fn measure(
    recipe: &Recipe,
    source: &Source,
    machine: Machine,
    labels: Option<&[String]>,
    steps: Option<&Steps>,
    replies: Option<Replies>,
    recomputed: f64,
) -> Result<Rates> {
    let is_memory = matches!(recipe.objective, ObjectiveConfig::Memory(_));
    ensure!(!is_memory, "a memory's steps depend on its facts");
    let layers = source.dir().config().num_hidden_layers;
    let mut depths = DEPTHS.map(|depth| depth.min(layers)).to_vec();
    depths.dedup();
    let mut found = Vec::new();
    for depth in depths {
        let adapted = shallow(recipe, source, machine, labels, depth)?;
        let treatment = if recomputed > 0.5 {
            Checkpointing::Recompute
        } else {
            Checkpointing::Keep
        };
        let plan = CheckpointingPolicy::uniform(treatment, adapted.model.num_blocks());
        found.push((depth, one(recipe, &adapted, steps, replies, &plan)?));
    }
    let cost = |part: fn(&Found) -> f64| {
        let each: Vec<(usize, f64)> = found.iter().map(|(depth, found)| (*depth, part(found))).collect();
        Cost::of(&each)
    };
    Ok(Rates {
        learn: cost(|found| found.learn),
        update: cost(|found| found.update),
        write: cost(|found| found.write),
    })
}

/// The model's first `depth` blocks with its own weights, under the recipe's surgeries.
fn shallow(
    recipe: &Recipe,
    source: &Source,
    machine: Machine,
    labels: Option<&[String]>,
    depth: usize,
) -> Result<Adapted> {
    let home = tempfile::tempdir().context("no room for a model to measure")?;
    let folder = home.path().join("model");
    let kept: Vec<usize> = (0..depth).collect();
    let config = source.dir().config().clone().without_quantisation().with_layers(&kept);
    let infos: Vec<TensorInfo> = config
        .tensors()
        .into_iter()
        .map(|(name, shape)| TensorInfo {
            name,
            shape,
            kind: machine.kind,
        })
        .collect();
    let read = |info: &TensorInfo| Ok(source.dir().tensor_as(&info.name, info.kind)?.contiguous());
    checkpoint::save_model(
        &folder,
        &config,
        &infos,
        read,
        &source.options(Existing::Refuse, "estimate"),
    )?;
    let small = Source::open(&folder.display().to_string(), source.events())?;
    let recipe = without_costly_beginnings(recipe, &folder);
    let model = methods::load(&small, machine, &recipe)?;
    let model = match (labels, &recipe.objective) {
        (Some(labels), _) => model.replace_head(
            HeadKind::Classification {
                labels: labels.to_vec(),
            },
            0,
        )?,
        (None, ObjectiveConfig::Reward(_)) => model.replace_head(HeadKind::Scalar, 0)?,
        _ => model,
    };
    methods::apply(model, &recipe, &small)
}

/// The recipe for the model in `folder`, without what is done once and changes no step's time.
fn without_costly_beginnings(recipe: &Recipe, folder: &Path) -> Recipe {
    let mut recipe = recipe.clone();
    recipe.model.name_or_path = folder.display().to_string();
    recipe.model.revision = None;
    recipe.surgery.retain(|surgery| surgery.costs_time_in_each_step());
    recipe
}

fn one(
    recipe: &Recipe,
    adapted: &Adapted,
    steps: Option<&Steps>,
    replies: Option<Replies>,
    plan: &CheckpointingPolicy,
) -> Result<Found> {
    let model = &adapted.model;
    let (learn, update) = match &recipe.objective {
        ObjectiveConfig::Classify(_) => learn::<LabelledRow>(recipe, model, &rows(steps)?, &ClassificationLoss, plan)?,
        ObjectiveConfig::Reward(config) => {
            learn::<ScoredRow>(recipe, model, &rows(steps)?, &RewardLoss::new(config)?, plan)?
        }
        // Losses over replies read the head where a supervised one does, and cost as much.
        _ => {
            let rows = match (steps, replies) {
                (Some(steps), _) => rows::<TokenRow>(Some(steps))?,
                (None, Some(replies)) => vec![written_row(model, replies)],
                (None, None) => Vec::new(),
            };
            learn::<TokenRow>(recipe, model, &rows, &SupervisedLoss, plan)?
        }
    };
    Ok(Found {
        learn,
        update,
        write: replies.map_or(Ok(0.0), |replies| write(model, replies))?,
    })
}

/// Rows of the run's first step.
fn rows<B: ToRow>(steps: Option<&Steps>) -> Result<Vec<Row<B>>> {
    let Some(steps) = steps else { return Ok(Vec::new()) };
    let mut rows = steps.tensors::<B>(0)?;
    let mut tokens = 0;
    let fits = rows
        .iter()
        .take_while(|row| {
            tokens += row.num_tokens;
            tokens <= MOST_TOKENS
        })
        .count();
    rows.truncate(fits.max(1));
    Ok(rows)
}

/// A row of prompts with replies; which tokens they are makes no difference to the time.
fn written_row(model: &Decoder, replies: Replies) -> Row<TokenRow> {
    let length = replies.prompt + replies.reply;
    let documents = (MOST_TOKENS / length.max(1)).clamp(1, replies.at_once);
    let tokens: Vec<i64> = (0..documents * length)
        .map(|idx| (idx * 7919 % model.vocab_size()) as i64)
        .collect();
    let targets: Vec<i64> = (0..tokens.len())
        .map(|idx| match tokens.get(idx + 1) {
            Some(next) if (replies.prompt..length).contains(&(idx % length + 1)) => *next,
            _ => IGNORED,
        })
        .collect();
    let on_device = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(model.device());
    Row {
        num_tokens: tokens.len(),
        batch: TokenRow {
            tokens: on_device(&tokens),
            targets: on_device(&targets),
            documents: Documents::new(&vec![length; documents]),
        },
    }
}

/// Seconds for each token that is learnt from, and for an update: the median of a few.
fn learn<B: ToRow>(
    recipe: &Recipe,
    model: &Decoder,
    rows: &[Row<B>],
    objective: &dyn Objective<Batch = B>,
    plan: &CheckpointingPolicy,
) -> Result<(f64, f64)> {
    let tokens: usize = rows.iter().map(|row| row.num_tokens).sum();
    let total: f64 = rows.iter().map(|row| objective.weight(&row.batch)).sum();
    ensure!(tokens > 0 && total > 0.0, "there is no row to learn from");
    let mut optimizer = Optimizer::new(model, &recipe.train, states::states(&recipe.train)?)?;
    let (mut learning, mut updating) = (Vec::new(), Vec::new());
    // The first time, caches are filled and memory is taken.
    for idx in 0..=TIMES {
        let begun = Instant::now();
        for row in rows {
            let policy = ModelPass::train(model, plan, DropoutKey(7));
            let loss = objective.loss(&policy, &row.batch)?;
            policy.backward(&loss, 1.0 / total, 1.0)?;
        }
        // Reading a number waits for the device.
        optimizer.gradient_norm();
        let learnt = begun.elapsed().as_secs_f64();
        optimizer.update(0.0, 1.0);
        optimizer.empty_gradients();
        if idx > 0 {
            learning.push(learnt / tokens as f64);
            updating.push(begun.elapsed().as_secs_f64() - learnt);
        }
    }
    Ok((median(learning), median(updating)))
}

/// Seconds for each token that is written, all replies side by side.
fn write(model: &Decoder, replies: Replies) -> Result<f64> {
    let prompts: Vec<Vec<u32>> = (0..replies.at_once)
        .map(|row| {
            (0..replies.prompt.max(1))
                .map(|idx| ((row + idx * 31) % model.vocab_size()) as u32)
                .collect()
        })
        .collect();
    let options = |max_new_tokens| GenerateOptions {
        max_new_tokens,
        sampler: Sampler {
            temperature: 1.0,
            ..Sampler::default()
        },
        end_tokens: EndTokens::Ignore,
        max_sequences: replies.at_once,
        ..GenerateOptions::default()
    };
    let seconds = |max_new_tokens| -> Result<f64> {
        let begun = Instant::now();
        model.generate(&prompts, &options(max_new_tokens), &mut |_, _| ())?;
        Ok(begun.elapsed().as_secs_f64())
    };
    seconds(2)?;
    let (short, long) = (seconds(1)?, seconds(1 + WRITTEN)?);
    Ok((long - short).max(0.0) / (WRITTEN * replies.at_once) as f64)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deeper_model_costs_its_further_blocks() {
        let cost = Cost::of(&[(1, 5.0), (3, 9.0)]);
        assert_eq!(cost, Cost { block: 2.0, rest: 3.0 });
        assert_eq!(cost.at(30), 63.0);
        // A model of one block, and noise that makes the deeper one quicker.
        assert_eq!(Cost::of(&[(1, 5.0)]).at(1), 5.0);
        assert_eq!(Cost::of(&[(1, 5.0), (3, 4.0)]), Cost { block: 0.0, rest: 5.0 });
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
