//! What a run will take: memory and time of a recipe before it runs, and how wrong that was.
//!
//! Memory is counted from shapes, part by part: each method says what it adds, trains and packs. For the time, the model's
//! first blocks are trained on the first rows for some seconds, or the multiplications are divided by the machine's matrix
//! rate. If the recipe's output folder holds a run, what that took stands beside.

mod memory;
mod past;
mod rates;
mod time;

use anyhow::{Result, bail};
use events::Events;
pub use memory::Memory;
use methods::recipe::Recipe;
use models::Source;
use models::machine::Machine;
pub use past::Past;
use serde_json::{Value, json};
use session::training::rollouts;
use session::training::sets::{self, Sets};
use session::training::steps::Steps;
pub use time::Time;

/// Memory and time of a run.
#[derive(Debug)]
pub struct Estimate {
    /// The memory, part by part.
    pub memory: Memory,
    /// The time.
    pub time: Time,
    /// What the run in the output folder took, if there is one.
    pub past: Option<Past>,
}

impl Estimate {
    /// Of `recipe` on `machine`. The data are read and tokenised to count them; with `measure`, the first blocks are
    /// trained for a moment.
    ///
    /// Errors: those that the run would end with before its first step.
    pub fn of(mut recipe: Recipe, machine: Machine, measure: bool, events: &Events) -> Result<Self> {
        let source = recipe.model.open(events)?;
        recipe.fits(source.dir())?;
        let tokenizer = source.tokenizer()?;
        sets::within_positions(&mut recipe, &source);
        let sets = Sets::read(&recipe, &tokenizer, events)?;
        let extent = rollouts::extent(&recipe, &tokenizer, events)?;
        let steps = match &extent {
            Some(_) => None,
            None => Some(Steps::training(&sets, &recipe, machine.device)?),
        };
        let work = match (&extent, &steps) {
            (Some(extent), _) => time::Work::of_rollouts(extent),
            (None, Some(steps)) => time::Work::of(&sets, steps, &recipe),
            (None, None) => bail!("there is nothing to learn from"),
        };
        let learnt_tokens = sets.train.iter().map(|set| set.report().trained_tokens).sum();
        let labels = sets.labels.as_deref();
        let model = memory::Model::of(source.dir().config(), &recipe, (labels, learnt_tokens), events)?;
        let memory = memory::estimate(&model, &recipe, machine, work.longest);
        let recomputed = memory.recomputed_share();
        let rates = match measure {
            true => measured(
                &recipe,
                &source,
                machine,
                (labels, steps.as_ref(), work.replies),
                recomputed,
            ),
            false => None,
        };
        Ok(Self {
            time: time::estimate(&model, &recipe, machine, &work, recomputed, rates),
            past: past::read(recipe.output_dir()),
            memory,
        })
    }

    /// As an object, with the run in the output folder compared where it computed as `machine` does.
    pub fn as_json(&self, machine: Machine) -> Value {
        let past = self.past.as_ref().map(|past| past.as_json(machine));
        json!({ "memory": self.memory.as_json(), "time": self.time.as_json(), "run": past })
    }
}

/// What parts of a step cost; none, with a message, where they cannot be measured.
fn measured(
    recipe: &Recipe,
    source: &Source,
    machine: Machine,
    (labels, steps, replies): (Option<&[String]>, Option<&Steps>, Option<rates::Replies>),
    recomputed: f64,
) -> Option<rates::Rates> {
    let found = rates::measure(recipe, source, machine, labels, steps, replies, recomputed);
    let cannot = |error: &anyhow::Error| {
        source.events().note(|| format!(
            "the time is computed from the machine's matrix rate, and may be off by half: nothing could be measured ({error:#})"
        ));
    };
    found.inspect_err(cannot).ok()
}

/// Numbers by name.
fn object<'n>(numbers: impl Iterator<Item = (&'n str, f64)>) -> Value {
    Value::Object(
        numbers
            .map(|(name, number)| (name.replace(' ', "_"), json!(number)))
            .collect(),
    )
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
