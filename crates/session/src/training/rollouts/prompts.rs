//! The prompts that a policy replies to, with what else their rows say.

use anyhow::{Context as _, Result, bail};
use data::{Dataset, Reject, Row, Tokenizer};
use events::Events;
use methods::recipe::{Recipe, Source};
use models::PromptFormat;
use models::prompts::{self, Form};
use serde_json::{Map, Value};

/// A prompt.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// What is asked, without the template around it.
    pub(super) text: String,
    /// Its tokens, template and header of the answer included.
    pub(super) tokens: Vec<u32>,
    /// The row's other columns; the row's own answer is `completion`.
    pub(super) extra: Map<String, Value>,
}

/// The prompts of a file.
#[derive(Debug)]
pub(super) struct PromptSet {
    pub(super) name: String,
    pub(super) prompts: Vec<Prompt>,
}

/// The prompts of these files.
pub(super) fn read(
    sources: &[Source],
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    events: &Events,
) -> Result<Vec<PromptSet>> {
    sources
        .iter()
        .map(|source| of_source(source, recipe, tokenizer, events))
        .collect()
}

fn of_source(source: &Source, recipe: &Recipe, tokenizer: &Tokenizer, events: &Events) -> Result<PromptSet> {
    let mut rows = models::datafile::read(&source.path, &source.reading(), events)?;
    if source.dedupe {
        rows.dedupe();
    }
    if let Some(most) = source.max_samples {
        rows.truncate(most);
    }
    let most = recipe.data.max_length;
    let (mut prompts, mut too_long) = (Vec::new(), 0);
    for (idx, row) in rows.rows().enumerate() {
        let prompt = of_row(row, tokenizer).with_context(|| rows.place(idx).to_string())?;
        match (prompt.tokens.len() < most, recipe.data.on_too_long) {
            (true, _) => prompts.push(prompt),
            (false, Reject::Drop) => too_long += 1,
            (false, Reject::Error) => bail!(
                "{}: wanted a prompt of fewer than {most} tokens, found {}\n\
                 hint: set a larger `data.max_length`, or leave such rows out with `data.on_too_long = \"drop\"`",
                rows.place(idx),
                prompt.tokens.len()
            ),
        }
    }
    if prompts.is_empty() {
        bail!("`{}`: no prompt is left of {} rows", source.path.display(), rows.len());
    }
    let dropped = if too_long > 0 {
        format!("; {too_long} dropped as too long")
    } else {
        String::new()
    };
    events.note(|| format!("{}: {} prompts{dropped}", source.name, prompts.len()));
    Ok(PromptSet {
        name: source.name.clone(),
        prompts,
    })
}

/// How the prompts that a recipe's policy replies to are given: plain texts as they stand, turns in the template.
pub fn prompt_format(recipe: &Recipe) -> Result<Option<PromptFormat>> {
    let (mut templated, mut raw) = (0, 0);
    for source in &recipe.data.train {
        for row in Dataset::read(&source.path, &source.reading())?.rows() {
            match row.gives_turns() {
                Some(true) => templated += 1,
                _ => raw += 1,
            }
        }
    }
    Ok(PromptFormat::of_counts(templated, raw))
}

/// A plain text is continued as it stands; turns are answered.
fn of_row(row: &Row, tokenizer: &Tokenizer) -> Result<Prompt> {
    let asked = prompts::of_row(row, Form::Plain, tokenizer)?;
    let mut extra = match row {
        Row::PromptOnly { extra, .. } => extra.clone(),
        _ => Map::new(),
    };
    if let Some(answer) = asked.reference {
        extra.insert("completion".into(), answer.into());
    }
    if asked.tokens.is_empty() {
        bail!("wanted a prompt, found no token of one");
    }
    Ok(Prompt {
        text: asked.text,
        tokens: asked.tokens,
        extra,
    })
}
