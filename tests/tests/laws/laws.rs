//! What must hold of every combination of a method and a base.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use session::training::Begin;

use super::bases::{Precision, Stock};
use super::methods::Form;
use super::run::{self, Case, Said};
use super::spoilt;

/// How far apart two forms of one model may be where they round at other places: relative, in the mean square.
///
/// In f32 a merged matrix is the sum `W + s B A` rounded once (2^-24) where the adapter's product is summed apart from
/// the base's; after two layers some hundred roundings of 6e-8 have met. In bf16 each of the some sixteen products on the
/// way to a logit is rounded at 2^-9 in either form, so that the two differ by `√32 · 2^-9 ≈ 1.1e-2`, which two norms and
/// a softmax can double. A model whose files are in bf16 is written in bf16, also where f32 is computed in.
fn rounding(precision: Precision) -> f64 {
    match precision {
        Precision::Bf16 | Precision::Nf4 | Precision::Nf4File => 3e-2,
        Precision::F32 | Precision::Fp4 | Precision::Int8 => 2e-5,
    }
}

/// How far what is loaded may be from what was trained: nothing, but for two forms that are no copy of what is in memory.
///
/// An update that began inside the base weight is written as an update of the original one, of twice the rank. A model
/// that trains as a whole holds its numbers in f32 and is written in its own dtype.
pub(crate) fn loading(case: &Case) -> f64 {
    let began_inside = case
        .method
        .surgery
        .iter()
        .any(|one| one.contains("'pissa") || one.contains("'olora"));
    let is_rounded = case.method.form == Form::Whole && case.base.precision == Precision::Bf16;
    if began_inside || is_rounded {
        rounding(case.base.precision)
    } else {
        0.0
    }
}

/// The least by which three steps must move what a model says: else a law could hold of an update that is nothing.
const MOVED: f64 = 1e-3;

/// The first law that does not hold; else how many wrong saves the law of loading noticed.
pub(crate) fn hold(case: &Case, room: &Path) -> Result<usize> {
    let model = case.base.write()?;
    let (whole, halves) = (room.join("whole"), room.join("halves"));
    let recipe = case.recipe(run::room(), &model, &whole)?;
    let trained = run::train(&recipe, case.machine(), Begin::New, false).context("it trains")?;
    ensure!(
        trained.iter().all(|number| number.is_finite()),
        "it trains: what it says is finite"
    );

    let adapter = (case.method.form != Form::Whole).then_some(whole.as_path());
    let read_from = if adapter.is_some() {
        model.as_path()
    } else {
        whole.as_path()
    };
    let loaded = run::say(&run::load(case, read_from, adapter).context("it loads")?);
    match loading(case) {
        0.0 => same(&trained, &loaded).context("saved and loaded, it says the same bit for bit")?,
        most => {
            let apart = distance(&trained, &loaded);
            ensure!(
                apart < most,
                "saved and loaded, it says the same to {most:.0e}: {apart:.1e} apart"
            );
        }
    }
    if case.method.objective != "classify" {
        let apart = distance(&run::say(&run::base(case, &recipe)?), &trained);
        ensure!(apart > MOVED, "training moves it: {apart:.1e} from its base");
    }

    resumes(case, (&model, &whole, &halves), &trained).context("stopped after a step and resumed, it is the same")?;
    match case.method.form {
        Form::Peft => merges(case, &model, &whole, &trained)?,
        Form::Beside => refuses_to_merge(&model, &whole)?,
        Form::Whole => exports(case, &whole, &loaded)?,
    }
    // Once a method is enough, and in f32 the law of loading is the sharpest.
    match case.base.precision {
        Precision::F32 => spoilt::is_noticed(case, (&model, &whole), &trained).context("a wrong save"),
        _ => Ok(0),
    }
}

/// A run that is stopped after its first step and resumed leaves the same bytes.
fn resumes(case: &Case, (model, whole, halves): (&Path, &Path, &Path), trained: &Said) -> Result<()> {
    let recipe = case.recipe(run::room(), model, halves)?;
    run::train(&recipe, case.machine(), Begin::New, true)?;
    let resumed = run::train(&recipe, case.machine(), Begin::Resume, false)?;
    same(trained, &resumed)?;
    let (first, second) = (results(whole)?, results(halves)?);
    ensure!(!first.is_empty(), "no tensors in `{}`", whole.display());
    ensure!(first == second, "wanted the files {first:?}, found {second:?}");
    for name in first {
        let read = |folder: &Path| fs::read(folder.join(&name));
        ensure!(read(whole)? == read(halves)?, "`{}` is another", name.display());
    }
    Ok(())
}

/// The files of numbers that a run leaves at its end: the model's at the top, and what its last checkpoint holds.
fn results(run: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in ["", "checkpoint-3"] {
        for entry in fs::read_dir(run.join(folder))? {
            let name = PathBuf::from(folder).join(entry?.file_name());
            let is_numbers =
                |ending: &std::ffi::OsStr| ["safetensors", "rows", "states"].iter().any(|one| ending == *one);
            if name.extension().is_some_and(is_numbers) {
                found.push(name);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `merge` and `export --adapter` write the same model, which says what the adapter says.
fn merges(case: &Case, model: &Path, adapter: &Path, trained: &Said) -> Result<()> {
    let text = |path: &Path| path.display().to_string();
    let (merged, exported) = (adapter.with_file_name("merged"), adapter.with_file_name("exported"));
    run::verb(&[
        "merge",
        "--model",
        &text(model),
        "--adapter",
        &text(adapter),
        "--output",
        &text(&merged),
    ])?;
    let export = [
        "export",
        "--model",
        &text(model),
        "--adapter",
        &text(adapter),
        "--format",
        "hf",
        "--output",
        &text(&exported),
    ];
    run::verb(&export)?;
    for name in ["model.safetensors", "config.json", "generation_config.json"] {
        let read = |folder: &Path| fs::read(folder.join(name)).ok();
        ensure!(
            read(&merged) == read(&exported),
            "`merge` and `export --adapter` write another `{name}`"
        );
    }
    let merged = run::load(case, &merged, None).context("merged, it loads")?;
    let said = run::say(&merged);
    let apart = match case.base.stock {
        Stock::Experts => {
            let routes = [
                run::routes(&run::load(case, model, Some(adapter))?),
                run::routes(&merged),
            ];
            routed_alike(trained, &said, &routes, case.base.precision)?
        }
        _ => distance(trained, &said),
    };
    let most = rounding(case.base.precision);
    ensure!(
        apart < most,
        "merged, it says the same to {most:.0e}: {apart:.1e} apart"
    );
    Ok(())
}

/// What is no matrix is not merged into one, and the refusal leaves nothing behind.
fn refuses_to_merge(model: &Path, adapter: &Path) -> Result<()> {
    let text = |path: &Path| path.display().to_string();
    let merged = adapter.with_file_name("merged");
    let args = [
        "merge",
        "--model",
        &text(model),
        "--adapter",
        &text(adapter),
        "--output",
        &text(&merged),
    ];
    match run::verb(&args) {
        Ok(()) => bail!("`merge` takes what no matrix can hold"),
        Err(error) => ensure!(
            format!("{error:#}").contains("hint: "),
            "`merge` refuses without a hint: {error:#}"
        ),
    }
    ensure!(!merged.exists(), "`merge` refuses and leaves `{}`", merged.display());
    Ok(())
}

/// A whole model that is exported is the same model.
fn exports(case: &Case, run: &Path, loaded: &Said) -> Result<()> {
    let text = |path: &Path| path.display().to_string();
    let exported = run.with_file_name("exported");
    run::verb(&[
        "export",
        "--model",
        &text(run),
        "--format",
        "hf",
        "--output",
        &text(&exported),
    ])?;
    let said = run::say(&run::load(case, &exported, None).context("exported, it loads")?);
    same(loaded, &said).context("exported, it says the same bit for bit")
}

/// Bit for bit.
fn same(wanted: &Said, found: &Said) -> Result<()> {
    let bits = |said: &Said| -> Vec<u32> { said.iter().map(|number| number.to_bits()).collect() };
    ensure!(
        bits(wanted) == bits(found),
        "what it says is {:.1e} apart",
        distance(wanted, found)
    );
    Ok(())
}

/// The [`distance`] over the tokens that both forms give to the same experts, they and all before them in their document.
///
/// Which experts a token is given to is a choice, and where two of them are as good as each other to a rounding, two forms
/// that round at other places may choose differently. What follows from another choice is no rounding, and is not compared.
/// An error if more than two tokens of the twenty choose differently where files are in bf16, or any in f32: that is no tie of a
/// rounding's width.
fn routed_alike(wanted: &Said, found: &Said, routes: &[Vec<Vec<f64>>; 2], precision: Precision) -> Result<f64> {
    let [one, other] = routes;
    ensure!(
        one.len() == other.len() && one.iter().any(|row| row.iter().any(|&count| count > 0.0)),
        "wanted the experts of each token, found {} and {} rows",
        one.len(),
        other.len()
    );
    let differ = one.iter().zip(other).filter(|(one, other)| one != other).count();
    let mut is_alike = Vec::new();
    let mut start = 0;
    for length in run::DOCUMENTS {
        let mut alike = true;
        for at in start..start + length {
            alike &= one[at] == other[at];
            is_alike.push(alike);
        }
        start += length;
    }
    let most = match precision {
        Precision::Bf16 | Precision::Nf4 | Precision::Nf4File => 2,
        // A tie of f32's width is none that twenty tokens meet.
        _ => 0,
    };
    ensure!(
        differ <= most,
        "merged, {differ} of {} tokens meet other experts",
        is_alike.len()
    );
    let width = wanted.len() / is_alike.len();
    let rows = |said: &Said| -> Said {
        let rows = said.chunks_exact(width).zip(&is_alike).filter(|(_, alike)| **alike);
        rows.flat_map(|(row, _)| row.to_vec()).collect()
    };
    Ok(distance(&rows(wanted), &rows(found)))
}

/// `√(Σ (a − b)² / Σ a²)`; infinite where the two have not the same length.
pub(crate) fn distance(wanted: &Said, found: &Said) -> f64 {
    if wanted.len() != found.len() {
        return f64::INFINITY;
    }
    let pairs = || wanted.iter().zip(found).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let (apart, all): (f64, f64) = (
        pairs().map(|(a, b)| (a - b).powi(2)).sum(),
        pairs().map(|(a, _)| a * a).sum(),
    );
    (apart / all).sqrt()
}
