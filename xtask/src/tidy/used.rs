//! Nothing lies about: every recipe and every golden vector is named, or its folder walked, by some test.

use super::Source;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// A golden vector: a file or folder of `crates/golden/vectors`, and the group (folder) it belongs to, if any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vector {
    group: Option<String>,
    name: String,
}

/// The vectors there are: what lies in `folder`, and what lies in the groups there.
pub(super) fn vectors(folder: &Path) -> Result<Vec<Vector>> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    for (name, is_group) in entries(folder)? {
        if !is_group {
            found.push(Vector { group: None, name });
            continue;
        }
        for (inner, _) in entries(&folder.join(&name))? {
            found.push(Vector {
                group: Some(name.clone()),
                name: inner,
            });
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("`{}`", folder.display()))? {
        let path = entry?.path();
        let name = if path.is_dir() {
            path.file_name()
        } else {
            path.file_stem()
        };
        found.push((name.unwrap_or_default().to_string_lossy().into_owned(), path.is_dir()));
    }
    found.sort();
    Ok(found)
}

/// The recipes and vectors that no source names, alone or by the folder it walks.
pub(super) fn unused(vectors: &[Vector], recipes: &[String], sources: &[&Source]) -> Vec<String> {
    // What this very rule says about names does not use them.
    let sources: Vec<&&Source> = sources.iter().filter(|file| !file.path.starts_with("xtask")).collect();
    let named = |name: &str| sources.iter().any(|file| mentions(&file.text, name));
    let walked = |folder: &str| sources.iter().any(|file| walks(&file.text, folder));
    let mut found = Vec::new();
    let recipes_walked = walked("recipes");
    for recipe in recipes.iter().filter(|recipe| !recipes_walked && !named(recipe)) {
        found.push(format!("recipes/{recipe}.toml: no test runs it"));
    }
    for Vector { group, name } in vectors {
        let used = named(name) || group.as_deref().is_some_and(walked);
        if !used {
            let group = group.as_ref().map_or(String::new(), |group| format!("{group}/"));
            found.push(format!("crates/golden/vectors/{group}{name}: no test reads it"));
        }
    }
    found
}

/// Whether the name stands there on its own, not as a part of a longer one.
fn mentions(text: &str, name: &str) -> bool {
    let part = |character: char| character.is_alphanumeric() || character == '_' || character == '-';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + name.len()..].starts_with(part))
}

/// Whether a source names the folder itself in a string, as one does who lists it; `"folder/file"` lists nothing.
fn walks(text: &str, folder: &str) -> bool {
    text.match_indices(folder)
        .any(|(at, _)| text[..at].ends_with(['"', '/']) && text[at + folder.len()..].starts_with(['"', '\\']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn source(text: &str) -> Source {
        Source {
            path: PathBuf::from("crates/a/tests/a.rs"),
            text: text.to_owned(),
            is_test_module: false,
        }
    }

    #[test]
    fn what_no_test_names_is_found() {
        let vector = |group: Option<&str>, name: &str| Vector {
            group: group.map(str::to_owned),
            name: name.to_owned(),
        };
        let vectors = [
            vector(None, "rope"),
            vector(Some("families"), "llama"),
            vector(Some("lora"), "plain"),
            vector(Some("lora"), "pla"),
        ];
        let recipes = ["demo".to_owned(), "bench".to_owned()];
        let text = source("read(\"rope\"); walk(\"families\"); read(\"lora/plain\"); run(\"recipes/demo.toml\");");
        let found = unused(&vectors, &recipes, &[&text]);
        assert_eq!(
            found,
            [
                "recipes/bench.toml: no test runs it",
                "crates/golden/vectors/lora/pla: no test reads it"
            ]
        );
    }

    #[test]
    fn a_test_that_walks_the_recipes_uses_them_all() {
        let walking = source("for file in read_dir(root.join(\"recipes\"))");
        assert_eq!(unused(&[], &["demo".into()], &[&walking]), Vec::<String>::new());
        assert_eq!(unused(&[], &["demo".into()], &[]).len(), 1);
    }

    #[test]
    fn groups_and_single_files_are_both_listed() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("families/llama")).unwrap();
        fs::write(home.path().join("families/llama/golden.safetensors"), "").unwrap();
        fs::write(home.path().join("rope.safetensors"), "").unwrap();
        let found = vectors(home.path()).unwrap();
        assert_eq!(
            found,
            [
                Vector {
                    group: Some("families".into()),
                    name: "llama".into()
                },
                Vector {
                    group: None,
                    name: "rope".into()
                }
            ]
        );
        assert!(vectors(&home.path().join("none")).unwrap().is_empty());
    }
}
