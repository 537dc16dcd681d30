//! The pages, their code blocks, and the comparison of a page with what the code says.

use std::fs;
use std::path::{Path, PathBuf};

/// Pages at the root of the repository.
pub(crate) const AT_ROOT: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every chapter of the book, relative to `docs`, in order.
pub(crate) fn chapters() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of pages") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                let inside = path.strip_prefix(root().join("docs")).expect("a page of the book");
                found.push(inside.display().to_string());
            }
        }
    }
    found.sort();
    assert!(found.len() > 30, "{found:?}");
    found
}

/// Every page: those of the root, and the book's as `docs/…`.
pub(crate) fn all() -> Vec<PathBuf> {
    let chapters = chapters().into_iter().map(|page| format!("docs/{page}"));
    AT_ROOT
        .map(str::to_owned)
        .into_iter()
        .chain(chapters)
        .map(PathBuf::from)
        .collect()
}

/// Whether a study or a pipeline writes the page: its commands have places (`{out}`) instead of values.
pub(crate) fn is_written_by_a_run(page: &Path) -> bool {
    ["docs/reproduce/", "docs/pipelines/"]
        .iter()
        .any(|folder| page.starts_with(folder))
}

/// The text of a page, a path from the root.
pub(crate) fn read(page: &Path) -> String {
    let path = root().join(page);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// A block of code: its label, the number of its first line, and its lines.
pub(crate) struct Block<'a> {
    pub(crate) label: &'a str,
    pub(crate) line: usize,
    pub(crate) lines: Vec<&'a str>,
}

/// The blocks of code of a page.
pub(crate) fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (idx, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), inside) {
            (Some(label), false) => {
                found.push(Block {
                    label: label.trim(),
                    line: idx + 2,
                    lines: Vec::new(),
                });
                inside = true;
            }
            (Some(_), true) => inside = false,
            (None, true) => found.last_mut().expect("a block is open").lines.push(line),
            (None, false) => {}
        }
    }
    found
}

/// Holds `docs/NAME` against what the code says; with `UPDATE_DOCS` in the environment, writes it.
pub(crate) fn hold(name: &str, wanted: &str) {
    let path = root().join("docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, wanted).expect("the page is written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differs = wanted
        .lines()
        .zip(found.lines())
        .find(|(wanted, found)| wanted != found);
    assert!(
        wanted == found,
        "`docs/{name}` is out of date (first {differs:?})\n\
         hint: `UPDATE_DOCS=1 cargo test -p end-to-end --test book` writes it"
    );
}
