//! Every link leads somewhere, every included file is there, and the summary names every chapter.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::pages;

/// A page as the book shows it: with what it includes.
pub(crate) fn expanded(page: &Path, errors: &mut Vec<String>) -> String {
    let mut text = String::new();
    for (idx, line) in pages::read(page).lines().enumerate() {
        let Some(place) = line
            .trim()
            .strip_prefix("{{#include ")
            .and_then(|rest| rest.strip_suffix("}}"))
        else {
            text += line;
            text += "\n";
            continue;
        };
        match included(page, place) {
            Ok(part) => text += &part,
            Err(error) => errors.push(format!("{}:{}: {error}", page.display(), idx + 1)),
        }
    }
    text
}

/// The text of `FILE` or `FILE:ANCHOR`, beside `page`.
fn included(page: &Path, place: &str) -> Result<String, String> {
    let (file, anchor) = place
        .split_once(':')
        .map_or((place, None), |(file, anchor)| (file, Some(anchor)));
    let path = beside(page, file);
    let text = std::fs::read_to_string(pages::root().join(&path)).map_err(|error| format!("`{place}`: {error}"))?;
    let Some(anchor) = anchor else { return Ok(text) };
    let begin = format!("ANCHOR: {anchor} ");
    let end = format!("ANCHOR_END: {anchor} ");
    let part = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    part.map(|(part, _)| part.to_owned())
        .ok_or_else(|| format!("`{place}`: the file has no such anchor"))
}

/// `link` as a path from the root.
fn beside(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

/// The targets of a page's links and pictures, with line numbers; code has none.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut code = false;
    for (idx, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("` `");
        for rest in plain.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                found.push((idx + 1, target.to_owned()));
            }
        }
    }
    found
}

/// The anchors of a page's headings, as mdbook and GitHub make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut code = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if !code && heading.len() < line.len() {
            let kept = heading.trim().chars().filter_map(|character| match character {
                ' ' => Some('-'),
                '-' | '_' => Some(character),
                other => other.is_alphanumeric().then(|| other.to_ascii_lowercase()),
            });
            found.insert(kept.collect());
        }
    }
    found
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let mut errors = Vec::new();
    let mut count = 0;
    for page in pages::all() {
        let text = expanded(&page, &mut errors);
        for (line, target) in targets(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (file, anchor) = target
                .split_once('#')
                .map_or((&*target, None), |(file, part)| (file, Some(part)));
            let path = if file.is_empty() {
                page.clone()
            } else {
                beside(&page, file)
            };
            let mut complain = |what: &str| errors.push(format!("{}:{line}: `{target}`: {what}", page.display()));
            if !pages::root().join(&path).exists() {
                complain("no such file");
            } else if page.starts_with("docs") && !path.starts_with("docs") {
                complain("the book does not hold this file");
            } else if let Some(anchor) = anchor {
                let mut ignored = Vec::new();
                if !anchors(&expanded(&path, &mut ignored)).contains(anchor) {
                    complain("no such heading");
                }
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(count > 80, "{count} links");
}

#[test]
fn the_summary_names_every_chapter_once() {
    let summary = pages::read(Path::new("docs/SUMMARY.md"));
    let named: Vec<String> = targets(&summary)
        .into_iter()
        .map(|(_, target)| target)
        .filter(|target| !target.is_empty())
        .collect();
    let unique: BTreeSet<&String> = named.iter().collect();
    assert_eq!(unique.len(), named.len(), "a chapter is named twice: {named:?}");
    let there: BTreeSet<String> = pages::chapters()
        .into_iter()
        .filter(|page| page != "SUMMARY.md")
        .collect();
    let named: BTreeSet<String> = named.into_iter().collect();
    let missing: Vec<_> = there.difference(&named).collect();
    let gone: Vec<_> = named.difference(&there).collect();
    assert!(missing.is_empty(), "not in `docs/SUMMARY.md`: {missing:?}");
    assert!(gone.is_empty(), "in `docs/SUMMARY.md`, but no files: {gone:?}");
}

#[test]
fn links_and_headings_are_told_from_code() {
    let text = "# A `b`: c, d\n[x](y.md#z) `[no](link)`\n```\n[no](code)\n# no\n```\n![p](q.svg)\n";
    let found: Vec<String> = targets(text).into_iter().map(|(_, target)| target).collect();
    assert_eq!(found, ["y.md#z", "q.svg"]);
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), ["a-b-c-d"]);
    assert_eq!(beside(Path::new("docs/a/b.md"), "../c.md"), Path::new("docs/c.md"));
}
