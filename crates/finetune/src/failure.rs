//! How a failure is shown: the situation first, its causes below, hints last.

use std::fmt::Write as _;

/// Writes an error with its causes to stderr.
pub fn report(error: &anyhow::Error) {
    eprint!("{}", text(error));
}

/// `error: …`, a `cause: …` line for each thing beneath that says something new, and the hints at the end.
pub fn text(error: &anyhow::Error) -> String {
    let mut out = String::new();
    let mut hints: Vec<String> = Vec::new();
    let mut said = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let message = cause.to_string();
        // Transparent errors, and those whose message holds their cause's, would say the same twice.
        if depth > 0 && said.contains(message.trim()) {
            continue;
        }
        said.push_str(&message);
        let (lines, mut more) = split_hints(&message);
        hints.append(&mut more);
        let word = if depth == 0 { "error" } else { "cause" };
        let _ = writeln!(out, "{word}: {}", lines.join("\n  "));
    }
    hints.dedup();
    for hint in hints {
        let _ = writeln!(out, "hint: {hint}");
    }
    out
}

fn split_hints(message: &str) -> (Vec<&str>, Vec<String>) {
    let mut lines = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    for line in message.lines() {
        match line.trim_start().strip_prefix("hint: ") {
            Some(hint) => hints.push(hint.to_owned()),
            None => lines.push(line),
        }
    }
    (lines, hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_come_last_and_nothing_is_said_twice() {
        let inner = anyhow::anyhow!("`a.jsonl` line 3: no such key\n  hint: rename it");
        let error = inner
            .context("`a.jsonl` line 3: no such key\n  hint: rename it")
            .context("the data cannot be read");
        let wanted = "error: the data cannot be read\ncause: `a.jsonl` line 3: no such key\nhint: rename it\n";
        assert_eq!(text(&error), wanted);
    }
}
