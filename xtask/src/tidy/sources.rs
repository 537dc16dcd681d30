//! Rules for single files: a first line that says what it is, a length one can read, nothing that panics or prints in a library.

use super::Source;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lines that a file may have, tests not counted.
const CEILING: usize = 400;

/// Every Rust file begins with what it is.
pub(super) fn first_line(file: &Source) -> Option<String> {
    let first = file.text.lines().next().unwrap_or_default();
    (!first.starts_with("//! ")).then(|| {
        format!(
            "{}:1: the first line is no `//!` line that says what the file is",
            file.path.display()
        )
    })
}

/// No file is longer than one can hold in mind.
pub(super) fn length(file: &Source) -> Option<String> {
    let lines = file.lines_without_tests().count();
    (lines > CEILING && !file.is_test()).then(|| {
        format!(
            "{}: {lines} lines without tests, at most {CEILING} are wanted",
            file.path.display()
        )
    })
}

/// Lines that the sources of a crate may have, tests not counted.
const CRATE_CEILING: usize = 6000;

/// No crate is larger than one can know.
pub(super) fn crate_lengths(files: &[&Source]) -> Vec<String> {
    let mut lines: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.is_test()) {
        let mut parts = file.path.components();
        let is_source = parts.next().is_some_and(|part| part.as_os_str() == "crates")
            && parts.nth(1).is_some_and(|part| part.as_os_str() == "src");
        if is_source {
            let of = file.path.components().take(2).collect();
            *lines.entry(of).or_default() += file.lines_without_tests().count();
        }
    }
    let large = lines.into_iter().filter(|(_, lines)| *lines > CRATE_CEILING);
    large
        .map(|(folder, lines)| {
            format!(
                "{}: {lines} lines without tests, at most {CRATE_CEILING} are wanted: which part could be used alone?",
                folder.display()
            )
        })
        .collect()
}

/// A library returns errors and leaves talking to the command.
pub(super) fn forbidden(file: &Source) -> Vec<String> {
    let mut parts = file.path.components().map(std::path::Component::as_os_str);
    let library =
        parts.next().is_some_and(|part| part == "crates") && parts.next().is_some_and(|part| part != "finetune");
    let build = file.path.file_name().is_some_and(|name| name == "build.rs");
    // An example is a program that somebody reads and runs.
    let example = file.path.components().any(|part| part.as_os_str() == "examples");
    if !library || build || example || file.is_test() {
        return Vec::new();
    }
    let words = [
        ".unwrap()",
        "println!(",
        "eprintln!(",
        "print!(",
        "dbg!(",
        "todo!(",
        "unimplemented!(",
    ];
    let mut found = Vec::new();
    for (number, line) in file.lines_without_tests() {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(word) = words.iter().find(|word| begins(code, word)) {
            found.push(format!("{}:{number}: `{word}…` in a library", file.path.display()));
        }
    }
    found
}

/// A test that does not run says why, where `cargo xtask test` counts it.
pub(super) fn silent_skips(file: &Source) -> Vec<String> {
    let quiet = [
        (concat!("#[ign", "ore]"), "without a reason: `#[ignore = \"why\"]`"),
        (
            concat!("eprintln!(\"skip", "ped"),
            "in a test counts as passed: `return golden::skip!(\"needs …\")`",
        ),
    ];
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for (start, what) in quiet {
            // Where the convention itself is written down.
            let own = ["crates/golden/src/skip.rs", "xtask/src/check.rs"]
                .iter()
                .any(|own| file.path == Path::new(own));
            if line.contains(start) && !own {
                found.push(format!("{}:{}: `{start}` {what}", file.path.display(), index + 1));
            }
        }
    }
    found
}

/// Instruction sets are detected in one place, where tests and users choose among them.
pub(super) fn detections(file: &Source) -> Vec<String> {
    let own = ["crates/gemm/src/unit.rs"]
        .iter()
        .any(|own| file.path == Path::new(own));
    let word = concat!("is_x86_feature_", "detected!");
    let lines = file
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| !own && line.contains(word));
    lines
        .map(|(index, _)| {
            format!(
                "{}:{}: `{word}`: ask `gemm::Unit`, which a test can hold to another set",
                file.path.display(),
                index + 1
            )
        })
        .collect()
}

/// A test that returns early counts as passed, unless its file skips where what it needs is missing.
pub(super) fn early_returns(file: &Source) -> Vec<String> {
    if file.text.contains("golden::skip!(") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut in_test = false;
    for (index, line) in file.text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match line.trim() {
            "#[test]" => in_test = true,
            "}" if indent <= 4 => in_test = false,
            _ => {}
        }
        // Deeper ones leave a closure.
        let leaves = line.contains("else { return }") || (line.trim() == "return;" && indent <= 12);
        if in_test && leaves {
            found.push(format!(
                "{}:{}: a test that returns counts as passed: `return golden::skip!(\"needs …\")`",
                file.path.display(),
                index + 1
            ));
        }
    }
    found
}

/// Whether `word` stands in the line and is not the end of a longer name (`eprintln!` is not `println!`).
fn begins(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        word.starts_with('.') || !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

/// No path of anybody's machine.
pub(super) fn home_paths(file: &Source) -> Vec<String> {
    let homes = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for home in homes {
            let named = line.match_indices(home).any(|(at, _)| {
                let before = line[..at]
                    .chars()
                    .next_back()
                    .is_none_or(|before| !before.is_alphanumeric() && !"./-_".contains(before));
                before && line[at + home.len()..].starts_with(|after: char| after.is_alphanumeric() || after == '.')
            });
            if named {
                found.push(format!(
                    "{}:{}: a path of somebody's machine, `{home}…`",
                    file.path.display(),
                    index + 1
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source {
            path: Path::new(path).to_owned(),
            text: text.to_owned(),
            is_test_module: false,
        }
    }

    #[test]
    fn a_file_that_does_not_say_what_it_is_is_found() {
        assert!(first_line(&file("a.rs", "//! A thing.\n")).is_none());
        for text in ["", "use std;\n", "//!\n", "// A thing.\n"] {
            assert!(first_line(&file("a.rs", text)).is_some(), "{text:?}");
        }
    }

    #[test]
    fn a_long_file_is_found_but_tests_do_not_count() {
        let long = "x\n".repeat(401);
        assert!(length(&file("crates/a/src/a.rs", &long)).unwrap().contains("401 lines"));
        assert!(length(&file("crates/a/tests/a.rs", &long)).is_none());
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "x\n".repeat(400));
        assert!(length(&file("crates/a/src/a.rs", &tested)).is_none());
    }

    #[test]
    fn a_crate_that_is_too_large_is_named_and_its_tests_do_not_count() {
        let file = |path: &str, lines: usize| Source {
            path: path.into(),
            text: "let a = 1;\n".repeat(lines),
            is_test_module: false,
        };
        let files = [
            file("crates/a/src/a.rs", 3500),
            file("crates/a/src/deep/b.rs", 2501),
            file("crates/a/tests/c.rs", 9000),
            file("crates/b/src/a.rs", 6000),
            file("xtask/src/a.rs", 9000),
        ];
        let found = crate_lengths(&files.iter().collect::<Vec<_>>());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("crates/a: 6001 lines"), "{found:?}");
    }

    #[test]
    fn a_library_that_panics_or_prints_is_found_with_its_line() {
        let rows = [
            ("crates/a/src/a.rs", "let x = y.unwrap();", 1),
            ("crates/a/src/a.rs", "println!(\"x\");", 1),
            ("crates/a/src/a.rs", "eprintln!(\"x\");", 1),
            ("crates/a/src/a.rs", "let x = y.unwrap_or(1);", 0),
            ("crates/a/src/a.rs", "/// println!(\"an example\").unwrap()", 0),
            ("crates/a/src/a.rs", "#[cfg(test)]\nmod tests {\n  x.unwrap();\n}", 0),
            ("crates/a/tests/a.rs", "x.unwrap();", 0),
            ("crates/a/build.rs", "println!(\"cargo:x\");", 0),
            ("crates/a/examples/a.rs", "println!(\"x\");", 0),
            ("crates/finetune/src/a.rs", "println!(\"x\");", 0),
            ("xtask/src/a.rs", "println!(\"x\");", 0),
        ];
        for (path, text, wanted) in rows {
            assert_eq!(forbidden(&file(path, text)).len(), wanted, "{path}: {text}");
        }
        let found = forbidden(&file("crates/a/src/a.rs", "\n\ndbg!(x);"));
        assert!(found[0].starts_with("crates/a/src/a.rs:3: `dbg!("), "{found:?}");
    }

    #[test]
    fn a_test_that_skips_itself_in_silence_is_found() {
        let rows = [
            (concat!("#[test]\n#[ign", "ore]\nfn a() {}"), 1),
            (concat!("    eprintln!(\"skip", "ped: no GPU\");"), 1),
            ("#[test]\n#[ignore = \"hours\"]\nfn a() {}", 0),
            ("return golden::skip!(\"needs a GPU\");", 0),
        ];
        for (text, wanted) in rows {
            assert_eq!(silent_skips(&file("crates/a/tests/a.rs", text)).len(), wanted, "{text}");
        }
    }

    #[test]
    fn a_test_that_returns_early_is_found_unless_it_skips() {
        let early = "#[test]\nfn a() {\n    let Some(x) = y() else { return };\n}\n";
        let inner = "#[test]\nfn a() {\n    if x {\n        return;\n    }\n}\n";
        let closure = "#[test]\nfn a() {\n    f(|| {\n        if x {\n            if y {\n                return;\n";
        let rows = [
            (early.to_owned(), 1),
            (inner.to_owned(), 1),
            (closure.to_owned(), 0),
            (early.replace("#[test]", "/// No test."), 0),
            (format!("{early}fn y() {{ golden::skip!(\"needs a GPU\") }}"), 0),
        ];
        for (text, wanted) in rows {
            assert_eq!(
                early_returns(&file("crates/a/tests/a.rs", &text)).len(),
                wanted,
                "{text}"
            );
        }
    }

    #[test]
    fn instruction_sets_are_detected_in_one_place() {
        let text = concat!("if is_x86_feature_", "detected!(\"avx2\") {}");
        assert_eq!(detections(&file("crates/a/src/a.rs", text)).len(), 1);
        assert_eq!(detections(&file("crates/gemm/src/unit.rs", text)), Vec::<String>::new());
    }

    #[test]
    fn a_path_of_somebodys_machine_is_found() {
        let rows = [
            (concat!("cd /ho", "me/ada/project"), 1),
            (concat!("\"/Us", "ers/ada\""), 1),
            (concat!("LIBTORCH=/ro", "ot/.cache"), 1),
            (concat!("https://site.org/ho", "me/page"), 0),
            (concat!("a /ho", "me/ of one's own"), 0),
        ];
        for (text, wanted) in rows {
            assert_eq!(home_paths(&file("README.md", text)).len(), wanted, "{text}");
        }
    }
}
