//! `docs/reproduce/NAME.md`: the claim, the table, the verdicts, and everything that is needed to run it again.

use super::plot;
use super::results::{Results, deviation, mean};
use super::study::{Step, Study};
use crate::place::{checkout, write_if_changed};
use anyhow::Result;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, thread};

/// Writes the page and its picture; returns the page's path.
pub(crate) fn write(study: &Study, results: &Results, seeds: u64, full: bool) -> Result<PathBuf> {
    let folder = checkout().join("docs/reproduce");
    let page = folder.join(format!("{}.md", study.name));
    write_if_changed(
        &folder.join(format!("{}.svg", study.name)),
        &plot::bars(study, results)?,
    )?;
    write_if_changed(&page, &text(study, results, seeds, full))?;
    Ok(page)
}

fn text(study: &Study, results: &Results, seeds: u64, full: bool) -> String {
    let mut text = format!(
        "# {}\n\n{}\n\n`cargo xtask reproduce {}{}{}`, {}, {}; seeds 0 to {}.\n\n{}\n",
        study.title,
        study.claim,
        study.name,
        if full { " --full" } else { "" },
        if seeds == 3 {
            String::new()
        } else {
            format!(" --seeds {seeds}")
        },
        machine(),
        today(),
        seeds - 1,
        table(study, results),
    );
    let _ = writeln!(
        text,
        "Mean over the seeds, ± standard deviation.\n\n![{}]({}.svg)\n",
        drawn(study),
        study.name
    );
    for verdict in (study.verdicts)(results) {
        let _ = writeln!(text, "- {verdict}");
    }
    text += "\n## What was run\n";
    for arm in &study.arms {
        let _ = writeln!(text, "\n{}:\n", arm.name);
        text += &commands(&arm.steps);
    }
    text
}

/// What the picture shows: the heading of the column that is drawn.
fn drawn(study: &Study) -> &'static str {
    let column = study.columns.iter().find(|column| column.key == study.drawn);
    column.map_or(study.drawn, |column| column.heading)
}

/// The table as Markdown.
pub(crate) fn table(study: &Study, results: &Results) -> String {
    let mut text = "| |".to_owned();
    for column in &study.columns {
        let _ = write!(text, " {} |", column.heading);
    }
    text += "\n|---|";
    text += &"---|".repeat(study.columns.len());
    for arm in &study.arms {
        let _ = write!(text, "\n| {} |", arm.name);
        for column in &study.columns {
            let values = results.values(&arm.name, column.key);
            let shown = match (mean(&values), deviation(&values)) {
                (None, _) => String::new(),
                (Some(mean), None) => column.form.show(mean),
                (Some(mean), Some(spread)) => format!("{} ± {}", column.form.show(mean), column.form.show(spread)),
            };
            let _ = write!(text, " {shown} |");
        }
    }
    text + "\n"
}

pub(crate) fn commands(steps: &[Step]) -> String {
    let mut text = "```\n".to_owned();
    for step in steps {
        let _ = match step {
            Step::Train { name, recipe } => {
                let lines: Vec<String> = recipe.trim().lines().map(|line| format!("  {line}")).collect();
                writeln!(text, "finetune train {name}.toml:\n{}", lines.join("\n"))
            }
            Step::Numbers { .. } => Ok(()),
            Step::Run { arguments } => writeln!(text, "finetune {}", arguments.join(" ")),
            Step::Ask {
                name,
                config,
                rows,
                count,
            } => {
                let lines: Vec<String> = config.trim().lines().map(|line| format!("  {line}")).collect();
                writeln!(
                    text,
                    "finetune moa --config {name}.toml, on the first {count} rows of {rows}:\n{}",
                    lines.join("\n")
                )
            }
            Step::Evaluate { model, suite, .. } => {
                writeln!(text, "finetune evaluate {} --suite {suite} --json", model.join(" "))
            }
        };
    }
    text + "```\n"
}

/// The processor, its best unit, how many cores a command sees.
pub(crate) fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|line| line.split(':').nth(1));
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let units: Vec<&str> = ["amx_bf16", "avx512_bf16", "avx2"]
        .into_iter()
        .filter(|unit| text.contains(unit))
        .take(1)
        .collect();
    format!(
        "{} with {}, {cores} core{}, {}",
        name.map_or("unknown processor", str::trim),
        units.first().unwrap_or(&"no vector unit"),
        if cores == 1 { "" } else { "s" },
        env::consts::OS
    )
}

/// The date, as `date` tells it.
pub(crate) fn today() -> String {
    let output = Command::new("date").arg("+%Y-%m-%d").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::results::Measures;
    use super::super::study::{Arm, Column, Form, Verdict};
    use super::*;

    fn study() -> Study {
        Study {
            name: "x",
            title: "X",
            claim: "It is so.",
            arms: vec![
                Arm::new("base", vec![Step::run("merge --model m")]).without_chance(),
                Arm::new("other", vec![]),
            ],
            columns: vec![
                Column {
                    key: "a",
                    heading: "accuracy",
                    form: Form::Share,
                },
                Column {
                    key: "m",
                    heading: "memory",
                    form: Form::Gigabytes,
                },
            ],
            drawn: "a",
            verdicts: |results| {
                vec![Verdict {
                    statement: "other is better".into(),
                    holds: results.mean("other", "a") > results.mean("base", "a"),
                }]
            },
        }
    }

    #[test]
    fn rows_are_arms_with_mean_and_spread() {
        let mut results = Results::default();
        results.add("base", Measures::from([("a".to_owned(), 0.5)]));
        for value in [0.6, 0.7] {
            results.add(
                "other",
                Measures::from([("a".to_owned(), value), ("m".to_owned(), 2e9)]),
            );
        }
        let text = text(&study(), &results, 2, false);
        for part in [
            "| base | 50.0 % |  |",
            "| other | 65.0 % ± 7.1 % | 2.00 GB ± 0.00 GB |",
            "- holds: other is better",
            "cargo xtask reproduce x --seeds 2",
            "finetune merge --model m",
        ] {
            assert!(text.contains(part), "`{part}` in {text}");
        }
    }

    #[test]
    fn a_share_is_drawn_in_per_cent_as_the_table_says_it() {
        let mut results = Results::default();
        results.add("base", Measures::from([("a".to_owned(), 0.5)]));
        results.add("other", Measures::from([("a".to_owned(), 0.9)]));
        let svg = plot::bars(&study(), &results).unwrap();
        let labels: Vec<&str> = svg
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('<'))
            .collect();
        assert!(labels.contains(&"accuracy, %"), "{labels:?}");
        let ticks: Vec<f64> = labels.iter().filter_map(|label| label.parse().ok()).collect();
        assert!(ticks.iter().any(|tick| *tick >= 50.0), "{labels:?}");
    }

    #[test]
    fn nothing_holds_that_was_not_measured() {
        assert!(!(study().verdicts)(&Results::default())[0].holds);
    }
}
