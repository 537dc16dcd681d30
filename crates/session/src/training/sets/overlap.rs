//! What is measured on rows that are learnt says nothing about new ones: such rows are counted and told.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use anyhow::Result;
use data::TokenSet;
use events::Events;
use methods::recipe::Source;

use super::learnable::used;

/// A sample as a number; two of the same tokens have the same.
fn of(documents: &[&[u32]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    documents.hash(&mut hasher);
    hasher.finish()
}

fn of_sample(set: &TokenSet, sample: usize) -> Result<u64> {
    let documents = set.sample(sample)?;
    let tokens: Vec<&[u32]> = documents.iter().map(|document| document.tokens.as_slice()).collect();
    Ok(of(&tokens))
}

/// Says how many samples of each evaluation set are among those that are learnt.
pub(super) fn tell(sources: &[Source], train: &[TokenSet], eval: &[(String, TokenSet)], events: &Events) -> Result<()> {
    if eval.is_empty() {
        return Ok(());
    }
    let mut learnt = HashSet::new();
    for (source, set) in sources.iter().zip(train) {
        for sample in 0..used(source, set) {
            learnt.insert(of_sample(set, sample)?);
        }
    }
    for (name, set) in eval {
        let each = (0..set.len())
            .map(|sample| of_sample(set, sample))
            .collect::<Result<Vec<_>>>()?;
        count(name, &learnt, &each, "samples", events);
    }
    Ok(())
}

/// The same of prompts, which are a document each.
pub(in crate::training) fn tell_prompts<'p>(
    train: impl Iterator<Item = &'p [u32]>,
    eval: &[(&str, Vec<&'p [u32]>)],
    events: &Events,
) {
    let learnt: HashSet<u64> = train.map(|tokens| of(&[tokens])).collect();
    for (name, prompts) in eval {
        let each: Vec<u64> = prompts.iter().map(|tokens| of(&[tokens])).collect();
        count(name, &learnt, &each, "prompts", events);
    }
}

fn count(name: &str, learnt: &HashSet<u64>, each: &[u64], what: &str, events: &Events) {
    let both = each.iter().filter(|sample| learnt.contains(sample)).count();
    if both == 0 {
        return;
    }
    let meaning = if both == each.len() {
        "its numbers say what was memorised, not what new rows would give"
    } else {
        "they make its numbers look better than new rows would give"
    };
    events.note(|| {
        format!(
            "{name}: {both} of {} {what} are in the training data too; {meaning}",
            each.len()
        )
    });
}
