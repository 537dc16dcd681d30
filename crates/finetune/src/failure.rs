//! How a failure is shown: the situation first, its causes below, hints last.

use std::fmt::Write as _;
use std::process::ExitCode;

/// Flags that cannot mean anything together, or a flag's value that its model cannot have: exit code 2, as for every
/// other wrong usage.
#[derive(Debug)]
pub struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The error of wrong usage.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

/// The exit code of an error: 2 for wrong usage, 1 for everything else.
pub fn code(error: &anyhow::Error) -> ExitCode {
    let is_usage = error.chain().any(<dyn std::error::Error>::is::<Usage>);
    ExitCode::from(if is_usage { 2 } else { 1 })
}

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
    fn wrong_usage_is_told_from_other_failures_beneath_any_context() {
        let shown = |error: anyhow::Error| format!("{:?}", code(&error));
        let (two, one) = (ExitCode::from(2), ExitCode::from(1));
        assert_eq!(
            shown(usage("`--keep`: wanted less").context("the model")),
            format!("{two:?}")
        );
        assert_eq!(shown(anyhow::anyhow!("no such file")), format!("{one:?}"));
    }

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
