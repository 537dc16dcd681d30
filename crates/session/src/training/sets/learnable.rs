//! Rows from which nothing can be learnt, though each is well formed: refused where all are so, counted where some are.
//!
//! A preference needs two replies that differ (also once they are cut), KTO replies of both kinds and several prompts, a
//! classifier two classes. What counts is what the recipe draws from a set: its first `max_samples`.

use std::collections::{BTreeMap, BTreeSet};

use align_dpo_ppo::KtoLoss;
use align_dpo_ppo::preference::LossType;
use anyhow::{Result, bail};
use data::{TokenSet, Tokenized};
use events::Events;
use methods::recipe::{ObjectiveConfig, Recipe, Source};

/// Rows that a message names.
const SHOWN: usize = 5;

/// A set with where it came from.
type Read<'s> = (&'s Source, &'s TokenSet);

/// Refuses training sets that teach nothing, and says which rows of the others teach nothing.
pub(super) fn check(
    recipe: &Recipe,
    train: &[TokenSet],
    eval: &[(String, TokenSet)],
    labels: Option<&[String]>,
    events: &Events,
) -> Result<()> {
    let train: Vec<Read> = recipe.data.train.iter().zip(train).collect();
    let eval: Vec<Read> = recipe.data.eval.iter().zip(eval.iter().map(|(_, set)| set)).collect();
    match &recipe.objective {
        ObjectiveConfig::Dpo(config) if config.terms()?.0.iter().all(|(loss, _)| *loss == LossType::Sft) => Ok(()),
        ObjectiveConfig::Dpo(_) | ObjectiveConfig::Orpo(_) | ObjectiveConfig::Reward(_) => {
            pairs(recipe, &train, &eval, events)
        }
        ObjectiveConfig::Kto(config) => {
            if config.loss_type == KtoLoss::Kto {
                replies_differ(&train)?;
            }
            kinds(&train, events)
        }
        ObjectiveConfig::Classify(_) => classes(&train, labels.unwrap_or_default(), events),
        _ => Ok(()),
    }
}

/// How many samples of a set the recipe draws from.
pub(super) fn used(source: &Source, set: &TokenSet) -> usize {
    set.len().min(source.max_samples.unwrap_or(usize::MAX))
}

/// Pairs whose two replies are one and the same.
fn pairs(recipe: &Recipe, train: &[Read], eval: &[Read], events: &Events) -> Result<()> {
    let kind = recipe.objective.kind();
    let max_length = recipe.data.max_length;
    let (mut differ, mut alike) = (0, 0);
    for (at, (source, set)) in train.iter().chain(eval).enumerate() {
        let (mut rows, mut cut, count) = (Vec::new(), 0, used(source, set));
        for sample in 0..count {
            if let [chosen, rejected] = &set.sample(sample)?[..]
                && chosen == rejected
            {
                rows.push(set.row(sample) + 1);
                cut += usize::from(chosen.tokens.len() == max_length);
            }
        }
        if at < train.len() {
            differ += count - rows.len();
            alike += rows.len();
        }
        if !rows.is_empty() {
            let how = match cut {
                0 => String::new(),
                cut => format!(", {cut} of them because both are cut at `data.max_length` = {max_length}"),
            };
            events.note(|| {
                format!(
                    "`{}`: {} of {count} pairs hold the same reply twice{how}: they teach no preference ({})",
                    source.path.display(),
                    rows.len(),
                    shown(&rows)
                )
            });
        }
    }
    if differ == 0 && alike > 0 {
        bail!(
            "`data.train`: `objective.kind = \"{kind}\"` wants pairs of two different replies, found all {alike} pairs with the same reply twice\n\
             hint: look at them with `finetune inspect`; where they differ only behind `data.max_length`, make it larger"
        );
    }
    Ok(())
}

/// KTO measures its baseline on prompts with another prompt's reply, so they must not all be the same.
fn replies_differ(train: &[Read]) -> Result<()> {
    let mut all = BTreeSet::new();
    let mut count = 0;
    for (source, set) in train {
        for sample in 0..used(source, set) {
            all.extend(set.sample(sample)?.into_iter().map(|document| document.tokens));
            count += 1;
            if all.len() > 2 {
                return Ok(());
            }
        }
    }
    if all.len() == 1 {
        bail!(
            "`data.train`: `objective.kind = \"kto\"` wants replies that differ, found {count} times the same prompt and reply\n\
             hint: look at the rows with `finetune inspect`; where they differ only behind `data.max_length`, make it larger"
        );
    }
    Ok(())
}

/// Good and bad replies, and those that are called both.
fn kinds(train: &[Read], events: &Events) -> Result<()> {
    let mut verdicts: BTreeMap<Vec<u32>, [usize; 2]> = BTreeMap::new();
    let mut counts = [0, 0];
    for (source, set) in train {
        for sample in 0..used(source, set) {
            for (part, Tokenized { tokens, .. }) in set.sample(sample)?.into_iter().enumerate() {
                let good = set.label(sample).map_or(part == 0, |label| label == 1);
                counts[usize::from(good)] += 1;
                verdicts.entry(tokens).or_default()[usize::from(good)] += 1;
            }
        }
    }
    let [bad, good] = counts;
    if bad == 0 || good == 0 {
        let (found, other) = if bad == 0 { ("good", "bad") } else { ("bad", "good") };
        events.note(|| format!(
            "`data.train`: all {} replies are {found} ones: nothing tells the model what a {other} one is like, and `rewards/margins` has no meaning",
            bad + good
        ));
        events.note(|| {
            if bad == 0 {
                "hint: `objective.kind = \"sft\"` learns from good replies alone"
            } else {
                "hint: KTO over bad replies alone unlearns them; add good ones if that is not meant"
            }
        });
    }
    let both = verdicts.values().filter(|[bad, good]| *bad > 0 && *good > 0);
    let both: usize = both.map(|[bad, good]| bad + good).sum();
    if both > 0 {
        events.note(|| {
            format!(
                "`data.train`: {both} of {} replies are called good in one row and bad in another: they cancel out",
                bad + good
            )
        });
    }
    Ok(())
}

/// Classes that no row has.
fn classes(train: &[Read], labels: &[String], events: &Events) -> Result<()> {
    let mut counts = vec![0usize; labels.len()];
    for (source, set) in train {
        for label in (0..used(source, set)).filter_map(|sample| set.label(sample)) {
            if let Some(count) = usize::try_from(label).ok().and_then(|label| counts.get_mut(label)) {
                *count += 1;
            }
        }
    }
    let (known, never): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|&label| counts[label] > 0);
    let name = |label: &usize| format!("`{}`", labels[*label]);
    if let [only] = known[..] {
        bail!(
            "`data.train`: `objective.kind = \"classify\"` wants rows of at least two classes, found {} rows of {} alone\n\
             hint: with `max_samples` a set is read from its first row on: sorted rows begin with one class",
            counts[only],
            name(&only)
        );
    }
    if !never.is_empty() {
        events.note(|| {
            format!(
                "`data.train`: no row is of {}: such a class is never learnt",
                never.iter().map(name).collect::<Vec<_>>().join(", ")
            )
        });
    }
    Ok(())
}

fn shown(rows: &[usize]) -> String {
    let first: Vec<String> = rows.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = if rows.len() > SHOWN { ", …" } else { "" };
    format!(
        "row{} {}{more}",
        if rows.len() > 1 { "s" } else { "" },
        first.join(", ")
    )
}
