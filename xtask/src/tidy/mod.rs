//! `cargo xtask tidy`: the house rules that a compiler does not check. Each rule is a function from what it reads to what it found.

mod crates;
mod sources;
mod used;

use crate::cargo;
use crate::place::checkout;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Every breach of every rule, as `file: what`.
pub(crate) fn problems() -> Result<Vec<String>> {
    let root = checkout();
    let mut files = files(&root)?;
    mark_test_modules(&mut files);
    let rust: Vec<&Source> = files.iter().filter(|file| file.is("rs")).collect();
    let metadata = cargo::metadata()?;
    let architecture = files.iter().find(|file| file.path == Path::new("ARCHITECTURE.md"));
    let mut found = Vec::new();
    for file in &rust {
        found.extend(sources::first_line(file));
        found.extend(sources::length(file));
        found.extend(sources::forbidden(file));
        found.extend(sources::silent_skips(file));
        found.extend(sources::early_returns(file));
        found.extend(sources::detections(file));
    }
    for file in &files {
        found.extend(sources::home_paths(file));
        // `fuzz` is a workspace of its own: it takes nothing from this one.
        let is_ours = !file.path.starts_with("fuzz");
        if is_ours && file.path.file_name().is_some_and(|name| name == "Cargo.toml") {
            found.extend(crates::manifest(file));
        }
    }
    found.extend(crates::table(
        architecture.map_or("", |file| &file.text),
        &crates::edges(&metadata),
    ));
    for package in &metadata.packages {
        found.extend(crates::published(package));
    }
    found.extend(sources::crate_lengths(&rust));
    let vectors = used::vectors(&root.join("crates/golden/vectors"))?;
    let recipes = files
        .iter()
        .filter(|file| file.path.parent() == Some(Path::new("recipes")) && file.is("toml"));
    let recipes: Vec<String> = recipes.filter_map(Source::stem).collect();
    found.extend(used::unused(&vectors, &recipes, &rust));
    Ok(found)
}

/// A text file of the checkout.
#[derive(Debug)]
struct Source {
    /// Relative to the checkout.
    path: PathBuf,
    text: String,
    /// Whether its parent declares it `#[cfg(test)]`.
    is_test_module: bool,
}

impl Source {
    fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }

    fn stem(&self) -> Option<String> {
        self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
    }

    /// Whether the file holds tests or benches only.
    fn is_test(&self) -> bool {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        folder
            .components()
            .any(|part| ["tests", "benches"].iter().any(|name| part.as_os_str() == *name))
            || self.is_test_module
    }

    /// The lines before `#[cfg(test)] mod …`, or all.
    fn lines_without_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let end = lines.windows(2).position(|pair| {
            pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ") && pair[1].contains('{')
        });
        let end = end.unwrap_or(lines.len());
        lines
            .into_iter()
            .take(end)
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

/// Marks the files that only `#[cfg(test)] mod name;` brings in.
fn mark_test_modules(files: &mut [Source]) {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is("rs")) {
        let own = ["lib", "main", "mod"].contains(&file.stem().unwrap_or_default().as_str());
        let folder = if own {
            file.path.parent().map(Path::to_owned)
        } else {
            Some(file.path.with_extension(""))
        };
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let name = pair[1].strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            if let (Some(name), Some(folder)) = (name, &folder) {
                found.extend([folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]);
            }
        }
    }
    for file in files {
        file.is_test_module = found.contains(&file.path);
    }
}

/// The text files of the checkout: no build output (folders that cargo tags as caches), nothing that git does not track by rule.
fn files(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    walk(root, Path::new(""), &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

const TEXT: [&str; 7] = ["rs", "toml", "md", "py", "yml", "cpp", "h"];

fn walk(root: &Path, below: &Path, found: &mut Vec<Source>) -> Result<()> {
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).with_context(|| format!("`{}`", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let (path, text) = (below.join(&name), name.to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let hidden = text.starts_with('.') && ![".cargo", ".ci", ".github"].contains(&text.as_ref());
            let output = ["target", "runs", "vectors", "__pycache__"].contains(&text.as_ref());
            if !hidden && !output && !root.join(&path).join("CACHEDIR.TAG").exists() {
                walk(root, &path, found)?;
            }
        } else if kind.is_file() && path != Path::new(".cargo/libtorch.toml") {
            let known = path
                .extension()
                .is_some_and(|extension| TEXT.iter().any(|text| extension == *text));
            if known || below == Path::new(".ci") {
                let text = fs::read_to_string(root.join(&path)).with_context(|| format!("`{}`", path.display()))?;
                found.push(Source {
                    path,
                    text,
                    is_test_module: false,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn build_output_is_not_read() {
        let home = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("src/a.rs", "//! A."),
            ("built/b.rs", ""),
            ("built/CACHEDIR.TAG", ""),
            (".git/c.md", ""),
            ("d.gguf", ""),
        ] {
            fs::create_dir_all(home.path().join(path).parent().unwrap()).unwrap();
            fs::write(home.path().join(path), text).unwrap();
        }
        let found = files(home.path()).unwrap();
        assert_eq!(
            found.iter().map(|file| file.path.as_path()).collect::<Vec<_>>(),
            [Path::new("src/a.rs")]
        );
    }

    #[test]
    fn a_module_declared_for_tests_is_one() {
        let source = |path: &str, text: &str| Source {
            path: path.into(),
            text: text.into(),
            is_test_module: false,
        };
        let mut files = [
            source("crates/a/src/lib.rs", "mod b;\n#[cfg(test)]\nmod twins;\n"),
            source("crates/a/src/b.rs", "#[cfg(test)]\nmod tests;\n"),
            source("crates/a/src/twins.rs", ""),
            source("crates/a/src/b/tests.rs", ""),
            source("crates/a/src/tests.rs", ""),
        ];
        mark_test_modules(&mut files);
        assert_eq!(files.map(|file| file.is_test_module), [false, false, true, true, false]);
    }

    #[test]
    fn the_whole_checkout_is_read_quickly() {
        let begun = Instant::now();
        problems().unwrap();
        assert!(
            begun.elapsed().as_secs_f64() < 2.0 * 5.0,
            "with room for a busy machine"
        );
    }
}
