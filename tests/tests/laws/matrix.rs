//! Every method over every base: what is not refused by a rule must hold every law.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use checkpoint::ModelDir;
use methods::recipe::Recipe;
use methods::recipe::combinations::{self, Refusal};
use session::training::Begin;

use super::bases::{Base, Precision, Stock};
use super::known::KNOWN;
use super::laws;
use super::methods::methods;
use super::run::{self, Case};

/// Every method over every precision; head and biases take turns, so that every pair of a method and a head, a method and
/// biases, a precision and a head, a precision and biases is there.
///
/// Over experts, whose model is another one where there are biases, and with `LAWS_ALL` in the environment everywhere,
/// every method meets every head and biases in every precision.
pub(crate) fn cases() -> Vec<Case> {
    let walks_all = std::env::var_os("LAWS_ALL").is_some();
    let mut cases = Vec::new();
    for (row, method) in methods().enumerate() {
        for (column, precision) in Precision::ALL.into_iter().enumerate() {
            let turns = match walks_all || method.stock == Stock::Experts {
                true => 0..4,
                false => (row + column) % 4..(row + column) % 4 + 1,
            };
            cases.extend(turns.map(|turn| {
                let base = Base {
                    precision,
                    stock: method.stock,
                    tied: turn % 2 == 0,
                    biases: turn / 2 == 1,
                };
                Case { method, base }
            }));
        }
    }
    cases
}

/// The rule that refuses a case, if any.
pub(crate) fn declared(case: &Case, room: &Path) -> Result<Option<Refusal>> {
    let model = case.base.write()?;
    let path = case.recipe(run::room(), &model, &room.join("declared"))?;
    // A rule that asks for no model is told by the reader; asked here without it, so that its name is known.
    let text = std::fs::read_to_string(&path)?;
    declared_of(&path, &text, &ModelDir::open(&model)?)
}

/// The rule that refuses the recipe `text` at `path` over `model`.
pub(crate) fn declared_of(path: &Path, text: &str, model: &ModelDir) -> Result<Option<Refusal>> {
    let document = methods::recipe::Document::parse(path, text.to_owned(), &[])?;
    let recipe = Recipe::unchecked(&document)?;
    Ok(combinations::refusal(&recipe.combination(Some(model))))
}

/// What became of a case.
enum Outcome {
    /// With so many wrong saves that were noticed.
    Held(usize),
    Refused,
    KnownToFail,
}

fn outcome(case: &Case) -> Result<Outcome> {
    let room = tempfile::tempdir_in(run::room())?;
    if let Some(refusal) = declared(case, room.path())? {
        return refused(case, room.path(), &refusal).map(|()| Outcome::Refused);
    }
    let held = catch_unwind(AssertUnwindSafe(|| laws::hold(case, room.path())))
        .unwrap_or_else(|panic| Err(anyhow!("it panics: {}", message(&*panic))));
    let known = KNOWN
        .iter()
        .find(|known| known.method == case.method.name && known.precisions.contains(&case.base.precision));
    match (held, known) {
        (Ok(noticed), None) => Ok(Outcome::Held(noticed)),
        (Ok(_), Some(_)) => Err(anyhow!("it holds: take its entry out of `known.rs`")),
        (Err(error), Some(known)) => {
            ensure!(
                format!("{error:#}").contains(known.says),
                "it fails otherwise than known: {error:#}"
            );
            Ok(Outcome::KnownToFail)
        }
        (Err(error), None) => Err(error),
    }
}

/// A refused case says so before anything is written.
fn refused(case: &Case, room: &Path, refusal: &Refusal) -> Result<()> {
    let (model, output) = (case.base.write()?, room.join("refused"));
    let recipe = case.recipe(run::room(), &model, &output)?;
    refuses(&recipe, case, refusal, &output).with_context(|| format!("the rule `{}`", refusal.rule.name))
}

fn refuses(recipe: &Path, case: &Case, refusal: &Refusal, output: &Path) -> Result<()> {
    let Err(error) = run::train(recipe, case.machine(), Begin::New, false) else {
        return Err(anyhow!("it is declared as refused, and trains"));
    };
    let text = format!("{error:#}");
    for part in [&refusal.at, refusal.rule.why, &format!("hint: {}", refusal.rule.hint)] {
        ensure!(text.contains(part), "wanted `{part}` in: {text}");
    }
    ensure!(!output.exists(), "refused, it leaves `{}`", output.display());
    Ok(())
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_default()
}

#[test]
fn what_a_run_leaves_says_the_same_wherever_it_is_read() {
    run::room();
    let filter = std::env::var("LAWS").unwrap_or_default();
    let cases: Vec<Case> = cases()
        .into_iter()
        .filter(|case| case.name().contains(&filter))
        .collect();
    let begun = Instant::now();
    let waiting = Mutex::new(cases.iter());
    let next = || waiting.lock().ok().and_then(|mut cases| cases.next());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(|| {
                tensor_core::parallel::set_num_threads(1).expect("a thread");
                while let Some(case) = next() {
                    let outcome = outcome(case);
                    outcomes
                        .lock()
                        .expect("no panic while it is held")
                        .push((case.name(), outcome));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().expect("no panic while it is held");
    let count = |is_meant: fn(&Outcome) -> bool| {
        outcomes
            .iter()
            .filter(|(_, outcome)| outcome.as_ref().is_ok_and(is_meant))
            .count()
    };
    let mut failures: Vec<String> = outcomes
        .iter()
        .filter_map(|(name, outcome)| Some(format!("{name}: {:#}", outcome.as_ref().err()?)))
        .collect();
    failures.sort();
    let noticed: usize = outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Ok(Outcome::Held(noticed)) => Some(noticed),
            _ => None,
        })
        .sum();
    // To the stream itself, which the test harness does not hold back.
    let _ = writeln!(
        std::io::stderr(),
        "law matrix: {} methods, {} combinations: {} run and held, {} refused by name, {} known to fail, {} failed; {noticed} wrong saves noticed; {:.0} s",
        methods().count(),
        outcomes.len(),
        count(|outcome| matches!(outcome, Outcome::Held(_))),
        count(|outcome| matches!(outcome, Outcome::Refused)),
        count(|outcome| matches!(outcome, Outcome::KnownToFail)),
        failures.len(),
        begun.elapsed().as_secs_f64(),
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(
        !outcomes.is_empty(),
        "no combination of the matrix is called so: `{filter}`"
    );
}
