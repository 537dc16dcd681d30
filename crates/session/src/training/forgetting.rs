//! What a run forgets: the perplexity of a general text before and after it.

use anyhow::{Context as _, Result};
use data::Tokenizer;
use decoder::Decoder;
use evaluate::{Suite, Task};
use events::Events;
use methods::recipe::Recipe;

/// The text of `report.forgetting`.
pub struct Forgetting {
    suite: Suite,
}

impl Forgetting {
    /// That of the recipe, if it names one.
    pub fn of(recipe: &Recipe) -> Option<Self> {
        let path = recipe.report.forgetting.clone()?;
        let task = Task::perplexity("general text", path, recipe.data.max_length);
        Some(Self {
            suite: Suite { tasks: vec![task] },
        })
    }

    /// The perplexity now.
    pub fn measure(&self, model: &Decoder, tokenizer: &Tokenizer) -> Result<f64> {
        let report =
            evaluate::evaluate(&self.suite, "", model, tokenizer, &mut |_, _, _| ()).context("`report.forgetting`")?;
        let perplexity = report.tasks.into_values().find_map(|task| task.perplexity);
        perplexity.context("`report.forgetting`: the text has no perplexity")
    }

    /// Two lines of `report.md`, said on the way.
    pub fn results(before: f64, after: f64, events: &Events) -> [(String, String, String); 2] {
        let (relative, nats) = (100.0 * (after / before - 1.0), (after / before).ln());
        let change = format!("{relative:+.1} %, {nats:+.4} nats a token");
        events.note(|| format!("perplexity of general text {before:.3} -> {after:.3}: {change}"));
        [
            (
                "perplexity of general text".into(),
                format!("{before:.3}"),
                format!("{after:.3}"),
            ),
            ("its change".into(), "-".into(), change),
        ]
    }
}
