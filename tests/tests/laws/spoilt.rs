//! A save that is wrong in one tensor is noticed: what a run has left is spoilt one tensor at a time, and one is left out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use checkpoint::Safetensors;
use tch::Tensor;

use super::laws::{distance, loading};
use super::methods::Form;
use super::run::{self, Case, Said};

/// What is done to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoilt {
    /// Scaled and shifted, as a wrong scale or another factor's numbers would be.
    Changed,
    /// Not written.
    Gone,
}

/// Asserts that the laws would notice a save of `run` that is wrong in any one tensor; how many wrong saves were tried.
pub(crate) fn is_noticed(case: &Case, (model, run): (&Path, &Path), trained: &Said) -> Result<usize> {
    let files = numbers(run)?;
    let mut tried = 0;
    for file in &files {
        let names = names(&run.join(file))?;
        let mut chosen: Vec<&String> = [0, names.len() / 3, 2 * names.len() / 3, names.len() - 1]
            .into_iter()
            .map(|idx| &names[idx])
            .collect();
        chosen.dedup();
        for (idx, name) in chosen.into_iter().enumerate() {
            let how = if idx == 1 { Spoilt::Gone } else { Spoilt::Changed };
            let folder = run.with_file_name("spoilt");
            spoil(run, &folder, file, name, how)?;
            let unnoticed = || format!("`{name}` of `{}`, {how:?}, is not noticed", file.display());
            ensure!(notices(case, (model, &folder), trained), unnoticed());
            fs::remove_dir_all(&folder)?;
            tried += 1;
        }
    }
    ensure!(tried > 0, "no tensors in `{}`", run.display());
    Ok(tried)
}

/// Whether a law fails: it does not load, or it says something else.
fn notices(case: &Case, (model, spoilt): (&Path, &Path), trained: &Said) -> bool {
    let (model, adapter) = match case.method.form {
        Form::Whole => (spoilt, None),
        Form::Peft | Form::Beside => (model, Some(spoilt)),
    };
    match run::load(case, model, adapter) {
        Ok(loaded) => distance(trained, &run::say(&loaded)) > loading(case),
        Err(_) => true,
    }
}

/// The files of tensors at the top of a run.
fn numbers(run: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run)? {
        let name = PathBuf::from(entry?.file_name());
        if name.extension().is_some_and(|ending| ending == "safetensors") {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// The tensors that say something: one of zeros, such as a factor that does not train, stands for nothing.
fn names(file: &Path) -> Result<Vec<String>> {
    let file = Safetensors::open(file)?;
    let mut names = Vec::new();
    for name in file.names() {
        if file.tensor(name)?.count_nonzero(None::<i64>).int64_value(&[]) > 0 {
            names.push(name.to_owned());
        }
    }
    ensure!(!names.is_empty(), "every tensor is of zeros");
    Ok(names)
}

/// A copy of the run's own files with one tensor spoilt.
fn spoil(run: &Path, folder: &Path, file: &Path, name: &str, how: Spoilt) -> Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(run)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::write(folder.join(entry.file_name()), fs::read(entry.path())?)?;
        }
    }
    let read = Safetensors::open(&run.join(file))?;
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for one in read.names() {
        let tensor = read.tensor(one)?;
        match (one == name, how) {
            (false, _) => tensors.push((one.to_owned(), tensor)),
            (true, Spoilt::Gone) => {}
            (true, Spoilt::Changed) => {
                let changed = (tensor.to_kind(tch::Kind::Double) * 1.5 + 0.1).to_kind(tensor.kind());
                tensors.push((one.to_owned(), changed));
            }
        }
    }
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    checkpoint::write_tensors(&folder.join(file), named).context("a spoilt file")
}
