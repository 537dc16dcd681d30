//! `[objective] kind = "memory"`: facts into the rows of a memory, each until it is known, and what else that changed.

pub mod prepare;
pub mod recall;
mod steps;
mod tail;

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context as _, Result};
use data::Tokenizer;
use decoder::Decoder;
use decoder::loss::SupervisedLoss;
use events::{Events, figures};
use memory_tuning::{Ledger, MemoryBank, colliding_pairs};
use methods::facts::{self, Fact};
use methods::recipe::MemoryObjective;
use models::prompts::{self, Form};
use train::{Hooks, Outcome, Report};

use self::prepare::{Prepared, prepare};
use self::steps::Steps;
use self::tail::Tail;
use super::evaluation::Evaluation;
use super::report_draft::{ReportDraft, Results};
use super::{Run, saving};

/// Trains the facts of `run` into `bank`, the memory of its model.
pub(super) fn fit(run: &Run, bank: &MemoryBank, options: &MemoryObjective) -> Result<Report> {
    let (recipe, model, train) = (run.recipe, &run.adapted.model, &run.recipe.train);
    let facts = facts::of_recipe(&run.sets.train, recipe)?;
    let others = facts::of_sets(run.sets.eval.iter().map(|(_, set)| (set, None)))?;
    let draft = ReportDraft::begin(run)?;
    let measured = || match recipe.report.recall {
        true => Measured::of(model, &facts, &others).map(Some),
        false => Ok(None),
    };
    let before = measured()?;

    // What was fitted once stays, also for the facts that come to it later.
    let is_new = bank.num_touched() == 0;
    bank.train_with(options.optimizer);
    let background = background(options, run.tokenizer, run.events())?;
    let prepared = prepare(model, bank, &facts, &background, (options, is_new))?;
    tell(&facts, &prepared, bank, run.events());
    let batch = train.documents_per_step();
    let ledger = Ledger::new(
        facts.len(),
        batch,
        options.target_loss,
        options.max_steps_per_fact,
        train.seed,
    );
    let steps = Steps {
        bank,
        facts: &facts,
        experts: &prepared.experts,
        options,
        max_tokens: recipe.data.max_tokens,
        weight_decay: train.weight_decay,
        device: model.device(),
        ledger: RefCell::new(ledger),
        trained: RefCell::default(),
    };
    let kept = earlier(run, &facts)?;
    let write = |folder: &Path| -> Result<()> {
        saving::save(folder, run.adapted, run.source, run.sets)?;
        let mut all = kept.clone();
        all.extend(facts::written(
            &facts,
            steps.ledger.borrow().facts(),
            &prepared.experts,
            bank,
        ));
        facts::write(folder, &all)
    };
    let save = |folder: &Path| write(folder).map_err(Into::into);
    let evaluation = Evaluation::new(run.sets, recipe, None, (model.device(), run.events()))?;
    let mut evaluate = |_: usize| evaluation.measure(model, &SupervisedLoss).map_err(Into::into);
    let mut hooks = Hooks::new(run.dir, &save)
        .with_events(run.events().clone())
        .with_stop(run.watch.stop())
        .with_sparse(&steps);
    if !run.sets.eval.is_empty() {
        hooks = hooks.with_evaluation(&mut evaluate);
    }
    let tail = Tail::new(model, &prepared);
    let report = train::fit(&tail, &steps, &steps, train, hooks)?;
    if matches!(report.outcome, Outcome::Interrupted { .. }) {
        return Ok(report);
    }
    let asked = match before.zip(measured()?) {
        Some((before, after)) => {
            let again = prepare(model, bank, &facts, &background, (options, false))?;
            Some(Asked { before, after, again })
        }
        None => None,
    };
    let ends: Vec<u32> = model.config().eos_token_ids.iter().map(|&id| id as u32).collect();
    let results = results(asked.as_ref(), (&facts, &ends), &prepared, &steps);
    for (name, before, after) in &results {
        run.events()
            .note(|| format!("{name}: {before} -> {after}").replace(": - -> ", ": "));
    }
    draft.end(&report, results, Vec::new())?;
    Ok(report)
}

/// What asking the facts before and after tells, and the experts that they meet afterwards.
struct Asked {
    before: Measured,
    after: Measured,
    again: Prepared,
}

/// Greedy answers at one moment.
struct Measured {
    facts: Vec<Vec<u32>>,
    others: Vec<Vec<u32>>,
}

impl Measured {
    fn of(model: &Decoder, facts: &[Fact], others: &[Fact]) -> Result<Self> {
        Ok(Self {
            facts: recall::answers(model, facts)?,
            others: recall::answers(model, others)?,
        })
    }
}

/// The facts that the memory held before, which this run does not train again.
fn earlier(run: &Run, facts: &[Fact]) -> Result<Vec<facts::Written>> {
    let from = run.recipe.surgery.iter().find_map(|surgery| surgery.continues_from());
    let Some(folder) = from else { return Ok(Vec::new()) };
    let mut kept = facts::read(folder)?;
    kept.retain(|written| !facts.iter().any(|fact| fact.prompt() == written.fact.prompt()));
    Ok(kept)
}

/// The first tokens of the general text, in documents of at most 512.
fn background(options: &MemoryObjective, tokenizer: &Tokenizer, events: &Events) -> Result<Vec<Vec<u32>>> {
    let Some(path) = &options.background else {
        return Ok(Vec::new());
    };
    let rows = models::datafile::read(path, &data::ReadConfig::default(), events)?;
    let (mut documents, mut left) = (Vec::new(), options.background_tokens);
    for row in rows.rows() {
        let place = || format!("`objective.background`: `{}`", path.display());
        let whole = prompts::whole(row, Form::Plain, tokenizer).with_context(place)?;
        for piece in whole.tokens.chunks(512) {
            let length = piece.len().min(left);
            if length > 0 {
                documents.push(piece[..length].to_vec());
            }
            left -= length;
        }
        if left == 0 {
            break;
        }
    }
    Ok(documents)
}

/// Says what will be trained.
fn tell(facts: &[Fact], prepared: &Prepared, bank: &MemoryBank, events: &Events) {
    let rows: usize = prepared.experts.iter().flatten().map(Vec::len).sum();
    let width = bank
        .each(|_, _, experts| experts.table.shape().width())
        .into_iter()
        .max()
        .unwrap_or(0);
    events.note(|| {
        format!(
            "{} facts, each in {:.1} experts of {} in {} projections; at most {} of rows",
            facts.len(),
            rows as f64 / facts.len().max(1) as f64,
            bank.config().num_experts,
            bank.len(),
            figures::bytes((rows * width * size_of::<f32>()) as f64),
        )
    });
}

/// Lines of `report.md`: name, before, after.
fn results(asked: Option<&Asked>, (facts, ends): (&[Fact], &[u32]), prepared: &Prepared, steps: &Steps) -> Results {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let line = |name: &str, before: String, after: String| (name.to_owned(), before, after);
    let none = || "-".to_owned();
    let ledger = steps.ledger.borrow();
    let trained: usize = ledger.facts().iter().map(|state| state.steps).sum();
    let recall = |answers: &[Vec<u32>]| recall::recall(answers, facts, ends);
    let recalled = asked.map(|asked| {
        let [before, after] = [&asked.before, &asked.after].map(|answers| percent(recall(&answers.facts)));
        line("facts recalled exactly", before, after)
    });
    let mut lines: Results = recalled.into_iter().collect();
    lines.extend([
        line(
            "facts under the target loss",
            none(),
            format!("{} of {}", ledger.num_known(), facts.len()),
        ),
        line(
            "steps a fact was trained in",
            none(),
            format!("{:.1}", trained as f64 / facts.len().max(1) as f64),
        ),
        line("experts touched", none(), steps.bank.num_touched().to_string()),
    ]);
    let (mut shared, mut pairs, mut same, mut all) = (0, 0, 0, 0);
    for site in 0..steps.bank.len() {
        let of_site: Vec<Vec<u32>> = prepared.experts.iter().map(|experts| experts[site].clone()).collect();
        let found = colliding_pairs(&of_site);
        (shared, pairs) = (shared + found.0, pairs + found.1);
        if let Some(asked) = asked {
            let now = asked.again.experts.iter().map(|experts| &experts[site]);
            same += of_site.iter().zip(now).filter(|(before, now)| before == now).count();
            all += of_site.len();
        }
    }
    lines.push(line(
        "pairs of facts that share an expert",
        none(),
        format!("{shared} of {pairs}"),
    ));
    if all > 0 {
        lines.push(line(
            "facts that still meet the experts they were trained in",
            none(),
            format!("{same} of {all}"),
        ));
    }
    if let Some(asked) = asked.filter(|asked| !asked.before.others.is_empty()) {
        let kept = recall::kept(&asked.before.others, &asked.after.others);
        lines.push(line("answers to other questions that stayed", none(), percent(kept)));
    }
    lines
}
