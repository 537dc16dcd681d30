//! By how much the better of two replies is better, where rows say it: Llama 2's margin (arXiv:2307.09288, eq. 2).

use anyhow::{Result, bail};
use data::{Dataset, ReadConfig, TokenSet};
use events::Events;
use methods::recipe::Source;
use serde_json::Value;

const COLUMN: &str = "margin";

/// Each set's margins, a number a sample; none of a set in which no row has one.
pub(super) fn read(sources: &[Source], sets: &[TokenSet], events: &Events) -> Result<Vec<Vec<f32>>> {
    let each = sources.iter().zip(sets);
    each.map(|(source, set)| of(source, set, events)).collect()
}

fn of(source: &Source, set: &TokenSet, events: &Events) -> Result<Vec<f32>> {
    let reading = ReadConfig {
        keep: vec![COLUMN.to_owned()],
        ..source.reading()
    };
    let mut rows = Dataset::read(&source.path, &reading)?;
    if source.dedupe {
        rows.dedupe();
    }
    let given: Vec<Option<&Value>> = (0..rows.len()).map(|idx| rows.kept(idx, COLUMN)).collect();
    if given.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    if rows.len() != set.len() {
        bail!(
            "`{}`: wanted a sample of every row, since rows have a `margin`, found {} of {}\n\
             hint: leave out what cannot be learnt, or set `data.on_empty` and `data.on_too_long` to \"error\" to see it",
            source.path.display(),
            set.len(),
            rows.len()
        );
    }
    let without = given.iter().filter(|margin| margin.is_none()).count();
    if without > 0 {
        events.note(|| {
            format!(
                "`{}`: {without} of {} rows have no `{COLUMN}`, and 0 is taken for theirs",
                source.path.display(),
                rows.len()
            )
        });
    }
    let number = |(idx, value): (usize, Option<&Value>)| match value {
        None => Ok(0.0),
        Some(value) => match value.as_f64().filter(|margin| margin.is_finite() && *margin >= 0.0) {
            Some(margin) => Ok(margin as f32),
            None => bail!(
                "{}: `{COLUMN}`: wanted a number of 0 or more, found {value}\n\
                 hint: a margin says by how much the better reply is better",
                rows.place(idx)
            ),
        },
    };
    given.into_iter().enumerate().map(number).collect()
}
