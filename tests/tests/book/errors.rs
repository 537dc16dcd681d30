//! Every error that the page on troubleshooting quotes is one that a source can print.

use std::fs;
use std::path::Path;

use super::pages;

/// Parts of errors that other programs and libraries print: the loader, clap, `serde_json`, CUDA.
const OF_OTHERS: [&str; 4] = [
    "error while loading shared libraries",
    "unexpected argument",
    "EOF while parsing",
    "out of memory",
];

/// The sources of every crate in one text, with strings that go on in the next line joined.
fn sources() -> String {
    let mut text = String::new();
    let mut folders = vec![pages::root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                text += &fs::read_to_string(&path).expect("a source");
            }
        }
    }
    let mut parts = text.split("\\\n");
    let mut joined = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        joined += part.trim_start();
    }
    joined.replace("\\\"", "\"")
}

/// The quoted errors: code in the first column of a table whose head is `you see`.
fn quoted(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut is_errors = false;
    for (idx, line) in text.lines().enumerate() {
        let Some(row) = line.strip_prefix('|').map(str::trim_start) else {
            is_errors = false;
            continue;
        };
        is_errors |= row.starts_with("you see");
        if !is_errors {
            continue;
        }
        // Double backticks quote text that has single ones in it.
        let cell = row.split(" | ").next().unwrap_or_default();
        let fence = if cell.contains("``") { "``" } else { "`" };
        let codes = if let Some(rest) = cell.strip_prefix("`` ") {
            vec![rest.trim_end_matches('`').to_owned()]
        } else if let Some(rest) = cell.strip_prefix("` ") {
            vec![rest.trim_end_matches('`').to_owned()]
        } else {
            cell.split(fence).skip(1).step_by(2).map(str::to_owned).collect()
        };
        found.extend(codes.into_iter().map(|code| (idx + 1, code)));
    }
    found
}

/// The parts of an error between the values in it: names between backticks, numbers, and what is left out.
fn fixed_parts(error: &str) -> Vec<String> {
    let outside = error.split('`').step_by(2);
    outside
        .flat_map(|part| part.split(['…', ',', ':', ';', '\'']))
        .flat_map(|part| part.split(|c: char| c.is_ascii_digit()))
        .map(|part| {
            let part = part.trim();
            let part = part.strip_prefix("wanted ").unwrap_or(part);
            part.strip_prefix("found ").unwrap_or(part).to_owned()
        })
        .filter(|part| part.split_whitespace().count() >= 2)
        .collect()
}

#[test]
fn every_error_of_the_page_on_troubleshooting_is_in_the_sources() {
    let sources = sources();
    let page = pages::read(Path::new("docs/troubleshooting.md"));
    let mut count = 0;
    let mut errors = Vec::new();
    for (line, error) in quoted(&page) {
        for part in fixed_parts(&error) {
            count += 1;
            if !sources.contains(&part) && !OF_OTHERS.iter().any(|known| part.contains(known)) {
                errors.push(format!("docs/troubleshooting.md:{line}: no source says `{part}`"));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(count > 25, "{count} parts of errors");
}

#[test]
fn what_no_source_says_is_found() {
    let table =
        "| you see | do |\n|---|---|\n| ``the row `a` is purple, found 3 of them`` | x |\n\nno `table row` here\n";
    let found: Vec<String> = quoted(table).into_iter().map(|(_, error)| error).collect();
    assert_eq!(found, ["the row `a` is purple, found 3 of them"]);
    assert_eq!(fixed_parts(&found[0]), ["the row", "is purple", "of them"]);
    assert!(!sources().contains(&["is pur", "ple"].concat()));
}
