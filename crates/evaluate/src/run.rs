//! A suite over a model.

use std::time::Instant;

use data::Tokenizer;

use crate::{
    Kind, PlainPrompts, Report, Result, Scorer, Suite, choice, classify, exact, pairs, perplexity, replies, rows,
};

/// Runs every task. `progress` hears of a task's name, the documents done, and all of them.
pub fn evaluate(
    suite: &Suite,
    model: &str,
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Report> {
    let mut report = Report {
        model: model.to_owned(),
        plain_prompts: rows::form(scorer, tokenizer).map(PlainPrompts::of),
        tasks: [].into(),
    };
    for task in &suite.tasks {
        let begun = Instant::now();
        let mut told = |done: usize, all: usize| progress(&task.name, done, all);
        let run = match task.kind {
            Kind::Perplexity => perplexity::perplexity,
            Kind::Classification => classify::classify,
            Kind::MultipleChoice => choice::multiple_choice,
            Kind::ExactMatch => exact::exact_match,
            Kind::Pairs => pairs::pairs,
            Kind::Replies => replies::replies,
        };
        // No row goes past the model's positions, whatever the suite allows.
        let task = &task.within(scorer.max_positions());
        let mut found = run(task, scorer, tokenizer, &mut told)?;
        found.seconds = begun.elapsed().as_secs_f64();
        report.tasks.insert(task.name.clone(), found);
    }
    Ok(report)
}
