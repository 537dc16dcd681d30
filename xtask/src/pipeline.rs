//! `cargo xtask pipeline NAME` and `cargo xtask reproduce NAME`: `finetune pipeline` on the checkout's own files, with
//! everything it needs set up and built, and its page written into the book.

use crate::place::{Cache, checkout};
use crate::{cargo, libtorch};
use anyhow::{Result, bail};
use fetch::{Tools, Wheels, nearest};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Arguments of `pipeline`.
#[derive(Debug, clap::Args)]
pub(crate) struct Stages {
    /// The name of a file in `pipelines/`, or any such file's path.
    name: String,
    /// Run every stage again.
    #[arg(long)]
    again: bool,
}

/// Arguments of `reproduce`.
#[derive(Debug, clap::Args)]
pub(crate) struct Study {
    /// Which claim; `--list` shows them.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Print what there is.
    #[arg(long)]
    list: bool,
    /// Four times the rows and steps: hours instead of minutes.
    #[arg(long)]
    full: bool,
    /// How many seeds; each arm is run once a seed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run every cell again.
    #[arg(long)]
    again: bool,
}

/// Runs a pipeline; the page of a house's own goes into `docs/pipelines` too.
pub(crate) fn run(cache: &Cache, tools: &Tools, arguments: &Stages) -> Result<()> {
    let own = names("pipelines")?;
    let mut options = Vec::new();
    let file = if own.contains(&arguments.name) {
        options.extend(["--page".to_owned(), "docs/pipelines".to_owned()]);
        format!("pipelines/{}.toml", arguments.name)
    } else if Path::new(&arguments.name).is_file() {
        std::path::absolute(&arguments.name)?.display().to_string()
    } else {
        return Err(unknown(&arguments.name, "pipeline", &own));
    };
    options.extend(arguments.again.then(|| "--again".to_owned()));
    finetune(cache, tools, &file, &options)
}

/// Runs a study; its page and its picture go into `docs/reproduce`.
pub(crate) fn reproduce(cache: &Cache, tools: &Tools, arguments: &Study) -> Result<()> {
    let own = names("studies")?;
    if arguments.list {
        for name in &own {
            println!("{name:<10} {}", title(name)?);
        }
        return Ok(());
    }
    let name = arguments.name.as_deref().unwrap_or_default();
    if !own.iter().any(|own| own == name) {
        return Err(unknown(name, "study", &own));
    }
    let mut options = ["--page", "docs/reproduce"].map(str::to_owned).to_vec();
    if arguments.seeds != 3 {
        options.extend(["--seeds".to_owned(), arguments.seeds.to_string()]);
    }
    options.extend(arguments.full.then(|| "--full".to_owned()));
    options.extend(arguments.again.then(|| "--again".to_owned()));
    finetune(cache, tools, &format!("studies/{name}.toml"), &options)
}

fn finetune(cache: &Cache, tools: &Tools, file: &str, options: &[String]) -> Result<()> {
    libtorch::setup(cache, tools, Wheels::Delete)?;
    let mut command = Command::new(libtorch::build_release()?);
    command.current_dir(checkout()).args(["pipeline", file]).args(options);
    cargo::run(&mut command)
}

/// The names of the files in a folder of the checkout, in order.
fn names(folder: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(checkout().join(folder))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "toml") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn title(name: &str) -> Result<String> {
    let path = checkout().join(format!("studies/{name}.toml"));
    let table: toml::Table = fs::read_to_string(&path)?.parse()?;
    match table.get("title").and_then(toml::Value::as_str) {
        Some(title) => Ok(title.to_owned()),
        None => bail!("`{}`: wanted a `title`, found none", path.display()),
    }
}

fn unknown(name: &str, what: &str, known: &[String]) -> anyhow::Error {
    let hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there is {}", known.join(", ")),
    };
    anyhow::anyhow!("no {what} is called `{name}`\nhint: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_study_has_a_title_and_a_near_name_is_told() {
        let own = names("studies").unwrap();
        assert!(
            own.len() >= 12 && own.iter().all(|name| !title(name).unwrap().is_empty()),
            "{own:?}"
        );
        let error = unknown("drao", "study", &own).to_string();
        assert!(
            error.contains("`drao`") && error.contains("did you mean `dora`?"),
            "{error}"
        );
        assert!(
            unknown("x", "pipeline", &["chapter-6".to_owned()])
                .to_string()
                .contains("there is chapter-6")
        );
    }
}
