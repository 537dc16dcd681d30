//! An adapter that is not where it was looked for: what was found there, and what is near.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::holds_adapter;

/// Adapters that a hint names at most.
const SHOWN: usize = 3;

/// An error unless the folder `path` holds an adapter.
pub fn refuse_missing(path: &Path) -> Result<()> {
    if holds_adapter(path) {
        return Ok(());
    }
    let (found, hint) = if path.is_file() {
        let folder = path.parent().filter(|folder| holds_adapter(folder));
        let hint = folder.map(|folder| format!("give its folder: `{}`", shown(folder)));
        ("a file".to_owned(), hint)
    } else if path.is_dir() {
        within(path)
    } else {
        ("no such folder".to_owned(), None)
    };
    let hint = hint.unwrap_or_else(|| near(path));
    bail!(
        "`{}`: wanted the folder of an adapter, found {found}: `adapter_config.json` is missing\nhint: {hint}\n\
         hint: an adapter is a folder with `adapter_config.json`, as `finetune train` or PEFT writes it",
        path.display()
    )
}

/// What a folder without an adapter holds instead.
fn within(folder: &Path) -> (String, Option<String>) {
    if folder.join("config.json").is_file() {
        let hint = format!("give it as the model: `--model {}`", folder.display());
        return ("a whole model".to_owned(), Some(hint));
    }
    let below = adapters_in(folder);
    let hint = (!below.is_empty()).then(|| format!("adapters in it: {}", listed(&below)));
    let is_empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    let found = if is_empty {
        "an empty folder"
    } else {
        "a folder without one"
    };
    (found.to_owned(), hint)
}

/// The adapters in the folder that `path` would lie in, those with a similar name first.
fn near(path: &Path) -> String {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut there = adapters_in(parent);
    if there.is_empty() {
        return format!("`{}` holds no adapter either", parent.display());
    }
    let distance = |other: &PathBuf| {
        let other = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
        strsim::levenshtein(&name, &other)
    };
    there.sort_by_key(|other| (distance(other), other.clone()));
    format!("adapters in `{}`: {}", parent.display(), listed(&there))
}

/// The folders directly in `folder` that hold an adapter, by name.
fn adapters_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| holds_adapter(path))
        .collect();
    found.sort();
    found
}

fn listed(adapters: &[PathBuf]) -> String {
    let mut names: Vec<String> = adapters
        .iter()
        .take(SHOWN)
        .map(|path| format!("`{}`", shown(path)))
        .collect();
    if adapters.len() > SHOWN {
        names.push(format!("and {} more", adapters.len() - SHOWN));
    }
    names.join(", ")
}

/// A path as a user would type it: `./` in front says nothing.
fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_there_and_what_is_near_is_named() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for name in [
            "runs/poems",
            "runs/jokes",
            "runs/whole/checkpoint-2",
            "runs/model",
            "runs/empty",
            "none",
        ] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["runs/poems", "runs/jokes", "runs/whole/checkpoint-2"] {
            fs::write(at(name).join("adapter_config.json"), "{}").unwrap();
        }
        fs::write(at("runs/model/config.json"), "{}").unwrap();
        fs::write(at("runs/poems/adapter_model.safetensors"), "").unwrap();
        fs::write(at("none/x.txt"), "").unwrap();
        assert!(refuse_missing(&at("runs/poems")).is_ok());
        let rows = [
            ("runs/poem", "no such folder", "runs/poems`, `"),
            ("runs/poems/adapter_model.safetensors", "a file", "give its folder"),
            ("runs/model", "a whole model", "--model"),
            ("runs/whole", "a folder without one", "checkpoint-2"),
            ("runs/empty", "an empty folder", "runs/poems`"),
            ("none/thing", "no such folder", "holds no adapter either"),
        ];
        for (name, found, hint) in rows {
            let error = refuse_missing(&at(name)).unwrap_err().to_string();
            let (first, last) = error.split_once("\nhint: ").unwrap();
            assert!(first.contains(found) && last.contains(hint), "{name}: {error}");
        }
    }
}
