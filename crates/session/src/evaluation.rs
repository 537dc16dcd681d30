//! A loaded model measured by a suite of tasks.

mod head;
mod scoring;

use anyhow::Result;
use decoder::HeadKind;
use evaluate::{Report, Suite};
use events::Work;

use crate::Loaded;

/// Measures `loaded`, which the report calls `name`, by every task of `suite`; a classifier by those that have labels.
pub fn evaluate(suite: &Suite, name: &str, loaded: &Loaded) -> Result<Report> {
    if let HeadKind::Classification { labels } = loaded.model.head_kind() {
        return head::measure(suite, name, loaded, labels);
    }
    let mut work: Option<(String, Work)> = None;
    let report = evaluate::evaluate(suite, name, loaded, &loaded.tokenizer, &mut |task, done, all| {
        work = work.take().filter(|(shown, _)| shown == task);
        let (_, work) = work.get_or_insert_with(|| (task.to_owned(), loaded.source.events().begin(task, all)));
        work.set(done, all);
    })?;
    Ok(report)
}
