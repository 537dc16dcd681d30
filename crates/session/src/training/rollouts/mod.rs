//! `[objective] kind = "ppo"` and `"grpo"`: replies that the model writes itself, what they earn, and what it learns of it.
//!
//! A rollout is replies to some prompts, scored and taught; the steps that learn from it are its passes, cut into
//! mini-batches. Each rollout is a file under `rollouts/`, written before its first step: a run that is killed goes on
//! with the rollouts that its checkpoint has begun, and writes those behind it anew, with the same seeds.

mod extent;
mod method;
mod prompts;
mod record;
mod steps;
mod writer;

use std::path::Path;

use align_dpo_ppo::Reference;
use align_dpo_ppo::rollout::WithValues;
use anyhow::{Result, bail};
use checkpoint::write_tensors;
use decoder::HeadKind;
use events::Events;
use methods::recipe::Recipe;
use models::experts::Balancing;
use tensor_core::LanguageModel;
use train::{AfterStep, Hooks, Outcome, Report, Tallies};

pub use self::extent::{Extent, extent};
use self::method::Method;
use self::prompts::PromptSet;
pub use self::prompts::prompt_format;
use self::record::{Records, Rollout};
use self::steps::Steps;
use self::writer::Writer;
use super::report_draft::ReportDraft;
use super::sets::overlap;
use super::{Run, saving, states};

/// Beside an adapter that PPO trained: its critic's head.
const VALUE_HEAD: &str = "value_head.safetensors";

/// Trains the model of `run`; `reference` is asked for where its objective compares.
pub(super) fn fit(run: &Run, reference: &dyn Fn() -> Result<Reference>) -> Result<Report> {
    let (recipe, model, events) = (run.recipe, &run.adapted.model, run.events());
    let Some(mut method) = Method::of(&recipe.objective) else {
        bail!("`objective.kind = \"{}\"` writes no rollouts", recipe.objective.kind());
    };
    if *model.head_kind() != HeadKind::LanguageModel {
        bail!(
            "`objective.kind = \"{}\"` wants a language model",
            recipe.objective.kind()
        );
    }
    let train = prompts::read(&recipe.data.train, recipe, run.tokenizer, events)?;
    let eval = prompts::read(&recipe.data.eval, recipe, run.tokenizer, events)?;
    tell_overlap(&train, &eval, events);
    tell_dropout(recipe, events);
    let rewards = run.speaker().rewards(method.rewards(), "`objective`")?;
    method.begin_critic(&rewards, model)?;
    let reference = match (method.needs_reference(), method.moving()) {
        (false, _) => None,
        (true, Some(moving)) => Some(Reference::moving(model, moving.ref_model_mixup_alpha)?),
        (true, None) => Some(reference()?),
    };
    let records = Records::open(run.dir, method.steps_per_rollout())?;
    let writer = Writer {
        model,
        tokenizer: run.tokenizer,
        method: &method,
        rewards: &rewards,
        reference: reference.as_ref(),
        max_tokens: recipe.data.max_tokens,
        seed: recipe.train.seed,
        events,
    };
    let steps = Steps::new(&train, recipe, &writer, &records)?;
    let draft = ReportDraft::begin(run)?;
    let save = |folder: &Path| -> Result<()> {
        saving::save(folder, run.adapted, run.source, run.sets)?;
        if let Some(head) = method.critic() {
            let tensors = head.tensors();
            write_tensors(
                &folder.join(VALUE_HEAD),
                tensors.iter().map(|(name, tensor)| (*name, tensor)),
            )?;
        }
        Ok(())
    };
    let save = |folder: &Path| save(folder).map_err(Into::into);
    let mut evaluate = |_: usize| measure(&writer, &eval).map_err(Into::into);
    let after = After {
        steps: &steps,
        balancing: Balancing::of(model, &recipe.router_options()),
    };
    let mut hooks = Hooks::new(run.dir, &save)
        .with_events(events.clone())
        .with_stop(run.watch.stop())
        .with_states(states::states(&recipe.train)?)
        .with_after_step(&after);
    if !eval.is_empty() {
        hooks = hooks.with_evaluation(&mut evaluate);
    }
    let both;
    let learner: &dyn LanguageModel = match method.critic() {
        None => model,
        Some(head) => {
            both = WithValues { policy: model, head };
            &both
        }
    };
    let report = train::fit(learner, &method.objective(), &steps, &recipe.train, hooks)?;
    if !matches!(report.outcome, Outcome::Interrupted { .. }) {
        if records.never_differed(report.num_steps)? {
            events.note(|| "in every rollout of this run all replies to a prompt earned the same reward: nothing was learnt from rewards",
            );
        }
        draft.end(&report, records.results(report.num_steps)?, Vec::new())?;
    }
    Ok(report)
}

/// What held-out prompts earn: replies drawn as rollouts are, always with the same numbers.
fn measure(writer: &Writer, sets: &[PromptSet]) -> Result<Vec<(String, f64)>> {
    let mut measured = Vec::new();
    let mut scores = Vec::new();
    for set in sets {
        let prompts: Vec<_> = set.prompts.iter().collect();
        let rollout = writer.measure(&prompts)?;
        let mut failed = rollout.replies.iter().filter_map(|reply| reply.failed.as_deref());
        if let Some(first) = failed.next() {
            let (count, of) = (1 + failed.count(), rollout.replies.len());
            writer.events.note(|| {
                format!(
                    "{}: {count} of {of} replies could not be scored, first: {first}",
                    set.name
                )
            });
        }
        scores.extend(rollout.replies.iter().filter_map(|reply| reply.episode.score));
        let facts = rollout
            .facts
            .into_iter()
            .filter(|(name, _)| !name.ends_with("tokens_per_second"));
        measured.extend(facts.map(|(name, value)| (format!("{}_{name}", set.name), value)));
    }
    // Without a score there is no mean of them.
    if !scores.is_empty() {
        measured.push(("reward".to_owned(), scores.iter().sum::<f64>() / scores.len() as f64));
    }
    Ok(measured)
}

/// Says how many held-out prompts are learnt from too.
fn tell_overlap(train: &[PromptSet], eval: &[PromptSet], events: &Events) {
    let eval: Vec<(&str, Vec<&[u32]>)> = eval
        .iter()
        .map(|set| {
            (
                set.name.as_str(),
                set.prompts.iter().map(|prompt| prompt.tokens.as_slice()).collect(),
            )
        })
        .collect();
    let train = train.iter().flat_map(|set| &set.prompts);
    overlap::tell_prompts(train.map(|prompt| prompt.tokens.as_slice()), &eval, events);
}

/// Says that dropout is off, where the recipe asks for some.
fn tell_dropout(recipe: &Recipe, events: &Events) {
    let dropout = recipe
        .surgery
        .iter()
        .map(|surgery| surgery.dropout())
        .fold(0.0, f64::max);
    if dropout > 0.0 {
        events.note(|| format!(
            "dropout ({dropout}) stays off: replies are written without it, and a step compares with what the policy said then"
        ));
    }
}

/// After each step: what its rollout is like is told, the reference moves, and experts are balanced.
struct After<'a> {
    steps: &'a Steps<'a>,
    balancing: Option<Balancing>,
}

impl AfterStep for After<'_> {
    fn after_step(&self, tallies: &Tallies) -> Vec<(String, f64)> {
        let mut facts = self.steps.end();
        facts.extend(
            self.balancing
                .iter()
                .flat_map(|balancing| balancing.after_step(tallies)),
        );
        facts
    }

    fn tensors(&self) -> Vec<(String, tch::Tensor)> {
        let mut tensors = self.steps.tensors();
        tensors.extend(self.balancing.iter().flat_map(Balancing::tensors));
        tensors
    }
}

/// Says in how many groups every reply earned the same: at the first rollout if there is one such, later if all are.
fn tell_spread(number: usize, (alike, groups): (usize, usize), num_replies: usize, events: &Events) {
    if alike == 0 || (number > 0 && alike < groups) {
        return;
    }
    let what = if groups == 1 {
        format!("all {num_replies} replies earned the same reward")
    } else {
        format!("in {alike} of {groups} groups all replies earned the same reward")
    };
    let meaning = if alike == groups {
        "nothing is learnt from it: a reply is measured against the others"
    } else {
        "those teach nothing: a reply is measured against the others of its group"
    };
    events.note(|| format!("rollout {number}: {what}; {meaning}"));
    if number == 0 && alike == groups {
        events.note(|| "hint: `rollouts/rollout-000000.jsonl` holds the replies and what each reward gave; rewards that no reply earns, or that cancel out, cannot be learnt",
        );
    }
}

/// Says once how many replies of a rollout a reward could not score; an error if nothing is left to learn from.
fn tell_failures(number: usize, rollout: &Rollout, events: &Events) -> Result<()> {
    let of = rollout.replies.len();
    let mut failed = rollout.replies.iter().filter_map(|reply| reply.failed.as_deref());
    let Some(first) = failed.next() else { return Ok(()) };
    if rollout.replies.iter().all(|reply| reply.episode.score.is_none()) {
        bail!(
            "rollout {number}: wanted a score for some of its {of} replies, found none: {first}\n\
             hint: try the reward on a row of the data; nothing can be learnt without it"
        );
    }
    let count = 1 + failed.count();
    events.note(|| format!("rollout {number}: {count} of {of} replies could not be scored, first: {first}"));
    Ok(())
}
