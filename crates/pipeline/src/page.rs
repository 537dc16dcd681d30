//! A study's page: the claim, the table, the verdicts, and everything that is needed to run it again.

use crate::plot;
use crate::results::{Results, deviation, mean};
use crate::study::{Step, Study, Verdict};
use anyhow::Result;
use fetch::write_if_changed;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// What a page says of how it came to be.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The command, as it was typed.
    pub(crate) command: String,
    pub(crate) seeds: u64,
}

/// Writes `NAME.md` and its picture into `folder`; returns the page's path.
pub(crate) fn write(study: &Study, results: &Results, run: &Run, folder: &Path) -> Result<PathBuf> {
    let page = folder.join(format!("{}.md", study.name));
    write_if_changed(
        &folder.join(format!("{}.svg", study.name)),
        &plot::bars(study, results)?,
    )?;
    let verdicts = study.verdicts(results)?;
    write_if_changed(&page, &text(study, results, &verdicts, run))?;
    Ok(page)
}

fn text(study: &Study, results: &Results, verdicts: &[Verdict], run: &Run) -> String {
    let mut text = format!(
        "# {}\n\n{}\n\n`{}`, {}, {}; seeds 0 to {}.\n\n{}\n",
        study.title,
        study.claim,
        run.command,
        machine(),
        today(),
        run.seeds - 1,
        table(study, results),
    );
    let _ = writeln!(
        text,
        "Mean over the seeds, ± standard deviation.\n\n![{}]({}.svg)\n",
        drawn(study),
        study.name
    );
    for verdict in verdicts {
        let _ = writeln!(text, "- {verdict}");
    }
    text + &what_was_run(study)
}

/// The last section: every arm's commands.
fn what_was_run(study: &Study) -> String {
    let mut text = "\n## What was run\n".to_owned();
    for arm in &study.arms {
        let _ = writeln!(text, "\n{}:\n", arm.name);
        text += &commands(&arm.steps);
    }
    text
}

/// What the picture shows: the heading of the column that is drawn.
fn drawn(study: &Study) -> &str {
    let column = study.columns.iter().find(|column| column.key == study.drawn);
    column.map_or(&study.drawn, |column| &column.heading)
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
            let values = results.values(&arm.name, &column.key);
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
    use super::*;
    use crate::results::Measures;

    fn study() -> Study {
        let text = "title = 'X'\nclaim = 'It is so.'\ndraw = 'a'\n\
                    [[column]]\nkey = 'a'\nheading = 'accuracy'\nform = 'share'\n\
                    [[column]]\nkey = 'm'\nheading = 'memory'\nform = 'gigabytes'\n\
                    [[arm]]\nname = 'base'\nonce = true\nsteps = [{ run = 'merge --model m' }]\n\
                    [[arm]]\nname = 'other'\nsteps = [{ run = 'merge --model m' }]\n\
                    [[verdict]]\nstatement = 'other is better'\nholds = \"mean('other', 'a') > mean('base', 'a')\"\n";
        crate::study_file::read("x", crate::read::Source { file: "x.toml", text }, 1).unwrap()
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
        let run = Run {
            command: "finetune pipeline x.toml --seeds 2".into(),
            seeds: 2,
        };
        let text = text(&study(), &results, &study().verdicts(&results).unwrap(), &run);
        for part in [
            "| base | 50.0 % |  |",
            "| other | 65.0 % ± 7.1 % | 2.00 GB ± 0.00 GB |",
            "- holds: other is better",
            "`finetune pipeline x.toml --seeds 2`, ",
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
        assert!(!study().verdicts(&Results::default()).unwrap()[0].holds);
    }

    #[test]
    fn the_books_pages_are_what_the_studies_files_say() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reproduce");
        for (name, _) in crate::house::names().filter(|(name, _)| *name != "chapter-6") {
            let found = crate::house::find(name).unwrap();
            let source = crate::read::Source {
                file: &found.file,
                text: &found.text,
            };
            let study = crate::study_file::read(name, source, 1).unwrap();
            let page = fs::read_to_string(docs.join(format!("{name}.md"))).unwrap();
            let head = format!("# {}\n\n{}\n\n`", study.title, study.claim);
            assert!(page.starts_with(&head), "{name}: {head}");
            let table = table(&study, &Results::default());
            let headings: String = table.split_inclusive('\n').take(2).collect();
            assert!(page.contains(&headings), "{name}: {headings}");
            for row in table.lines().skip(2) {
                let arm = row.split(" |").next().unwrap();
                assert!(page.contains(&format!("\n{arm} |")), "{name}: {arm}");
            }
            assert!(
                page.ends_with(&what_was_run(&study)),
                "{name}: {}",
                what_was_run(&study)
            );
        }
    }
}
