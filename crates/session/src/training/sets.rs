//! A recipe's data as tokens: read, checked, tokenised, cached.

mod learnable;
mod margins;
pub(super) mod overlap;
mod wanted;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use data::{Dataset, EncodeConfig, Report, TokenSet, Tokenizer};
use events::{Events, figures};
use methods::recipe::{ObjectiveConfig, Recipe, Source};
use models::{PromptFormat, Source as ModelSource};

/// All sets of a recipe.
#[derive(Debug)]
pub struct Sets {
    /// What is learnt, in the recipe's order.
    pub train: Vec<TokenSet>,
    /// What is measured, with the names of the metrics.
    pub eval: Vec<(String, TokenSet)>,
    /// Names of the classes, for `classify`.
    pub labels: Option<Vec<String>>,
    /// By training set, each row's `margin`, for `reward`: by how much its better reply is better; empty where no row
    /// of the set has one.
    pub margins: Vec<Vec<f32>>,
}

impl Sets {
    /// Reads every file; an error names the file and the line. Prompts that the model itself will answer are no sets.
    pub fn read(recipe: &Recipe, tokenizer: &Tokenizer, events: &Events) -> Result<Self> {
        if recipe.objective.has_rollouts() {
            return Ok(Self {
                train: Vec::new(),
                eval: Vec::new(),
                labels: None,
                margins: Vec::new(),
            });
        }
        let labels = match (&recipe.objective, recipe.labels()) {
            (ObjectiveConfig::Classify(_), Some(labels)) => Some(labels),
            (ObjectiveConfig::Classify(_), None) => Some(labels_in_data(recipe)?),
            _ => None,
        };
        let encoding = recipe
            .data
            .encoding(&recipe.objective, labels.as_deref().unwrap_or_default());
        let reading = Reading {
            tokenizer,
            encoding: &encoding,
            objective: &recipe.objective,
            events,
        };
        let train = recipe
            .data
            .train
            .iter()
            .map(|source| reading.tokens(source, Limit::ByMixture))
            .collect::<Result<Vec<_>>>()?;
        let eval = recipe
            .data
            .eval
            .iter()
            .map(|source| Ok((source.name.clone(), reading.tokens(source, Limit::Rows)?)))
            .collect::<Result<Vec<(String, TokenSet)>>>()?;
        learnable::check(recipe, &train, &eval, labels.as_deref(), events)?;
        // Facts that are asked for are those that were learnt.
        if !matches!(recipe.objective, ObjectiveConfig::Memory(_)) {
            overlap::tell(&recipe.data.train, &train, &eval, events)?;
        }
        let margins = match recipe.objective {
            ObjectiveConfig::Reward(_) => margins::read(&recipe.data.train, &train, events)?,
            _ => Vec::new(),
        };
        Ok(Self {
            train,
            eval,
            labels,
            margins,
        })
    }

    /// How prompts are given in what is learnt; none where no row has a prompt.
    pub fn prompt_format(&self) -> Option<PromptFormat> {
        let count = |of: fn(&Report) -> usize| self.train.iter().map(|set| of(set.report())).sum::<usize>();
        PromptFormat::of_counts(count(|report| report.templated), count(|report| report.raw))
    }

    /// Tokens of the longest sample there is.
    pub fn longest(&self) -> usize {
        let sets = self.train.iter().chain(self.eval.iter().map(|(_, set)| set));
        sets.flat_map(|set| (0..set.len()).map(|sample| set.sample_len(sample)))
            .max()
            .unwrap_or(0)
    }
}

/// No document goes past the model's positions: where the recipe allows more, they are what `max_length` means.
pub fn within_positions(recipe: &mut Recipe, source: &ModelSource) {
    let positions = source.dir().config().max_positions() as usize;
    let most = &mut recipe.data.max_length;
    if *most > positions {
        source.events().note(|| format!(
            "`data.max_length` = {most} is more than the model's {positions} positions: documents have at most {positions} tokens"
        ));
        *most = positions;
    }
}

/// Where `max_samples` is seen to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// By the mixture, which draws from the first samples only.
    ByMixture,
    /// By leaving rows out.
    Rows,
}

/// What every file of a recipe is read with.
struct Reading<'a> {
    tokenizer: &'a Tokenizer,
    encoding: &'a EncodeConfig,
    objective: &'a ObjectiveConfig,
    events: &'a Events,
}

impl Reading<'_> {
    fn tokens(&self, source: &Source, limit: Limit) -> Result<TokenSet> {
        let Self {
            tokenizer,
            encoding,
            objective,
            events,
        } = self;
        let cache = cache_dir();
        let cuts_rows = limit == Limit::Rows && source.max_samples.is_some();
        if let (Some(cache), false, false) = (&cache, source.dedupe, cuts_rows) {
            // A whole file whose tokens are known needs no parsing.
            if let Some(set) = TokenSet::cached(&source.path, &source.reading(), tokenizer, encoding, cache)? {
                self.tell(source, set.report(), 0);
                return wanted::checked(source, set, objective);
            }
        }
        let mut rows = Dataset::read(&source.path, &source.reading())?;
        let duplicates = if source.dedupe { rows.dedupe() } else { 0 };
        if let (Limit::Rows, Some(most)) = (limit, source.max_samples) {
            rows.truncate(most);
        }
        let work = events.begin("tokenising", rows.len());
        let set = TokenSet::build(&rows, tokenizer, encoding, cache.as_deref(), &|done| {
            work.set(done, rows.len());
        })?;
        drop(work);
        if let Some(error) = set.uncached() {
            events.note(|| format!("the tokens are not kept for the next run: {error}"));
        }
        self.tell(source, set.report(), duplicates);
        wanted::checked(source, set, objective)
    }

    /// Says what was left out: nothing is silent.
    fn tell(&self, source: &Source, report: &Report, duplicates: usize) {
        let Self {
            encoding,
            objective,
            events,
            ..
        } = self;
        let (name, samples, tokens) = (&source.name, report.samples, figures::count(report.tokens as f64));
        let mut parts = vec![match objective {
            // No token is a target here: what is learnt is the row's label, or which reply is the better one.
            ObjectiveConfig::Classify(_) => format!("{name}: {samples} labelled samples, {tokens} tokens"),
            ObjectiveConfig::Reward(_) => format!("{name}: {samples} pairs of replies, {tokens} tokens"),
            _ => format!(
                "{name}: {samples} samples, {tokens} tokens, {} of them trained",
                figures::count(report.trained_tokens as f64)
            ),
        }];
        let mut part = |count: usize, what: &str| {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        };
        part(duplicates, "duplicates left out");
        let cut = encoding
            .max_length
            .map(|most| format!("cut at `max_length` = {most} tokens"));
        part(report.truncated, cut.as_deref().unwrap_or_default());
        part(report.dropped_empty, "dropped with nothing to learn");
        part(report.dropped_too_long, "dropped as too long");
        // A document that was cut cannot end in an end token.
        part(
            report.unterminated.saturating_sub(report.truncated),
            "that never learn to stop (their last trained token is no end token)",
        );
        events.note(|| parts.join("; "));
        for dropped in &report.dropped {
            events.note(|| format!("  {dropped}"));
        }
        for (remark, count) in &report.remarks {
            events.note(|| format!("  {count} rows {remark}"));
        }
        for column in &report.columns {
            events.warn(|| column.as_str());
        }
    }
}

fn labels_in_data(recipe: &Recipe) -> Result<Vec<String>> {
    let sources = recipe.data.train.iter().chain(&recipe.data.eval);
    let sets = sources
        .map(|source| Ok(Dataset::read(&source.path, &source.reading())?))
        .collect::<Result<Vec<_>>>()?;
    let labels = data::label_names(&sets).context("`data`")?;
    match labels.len() {
        0 => bail!(
            "`{}`: `objective.kind = \"classify\"` wants rows with `text` and `label`, found none with a label",
            recipe.data.train[0].path.display()
        ),
        1 => bail!(
            "`{}`: wanted at least two classes, found only `{}`",
            recipe.data.train[0].path.display(),
            labels[0]
        ),
        _ => Ok(labels),
    }
}

fn cache_dir() -> Option<PathBuf> {
    checkpoint::cache_dir().map(|dir| dir.join("tokens"))
}
