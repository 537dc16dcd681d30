//! One page at the end: what each stage gained and cost, and what was run.

use crate::page;
use crate::results::Measures;
use crate::stages::Pipeline;
use std::fmt::Write as _;

/// The report as Markdown.
pub(crate) fn text(pipeline: &Pipeline, command: &str, found: &[Measures]) -> String {
    let minutes: f64 = found.iter().filter_map(|measures| measures.get("wall.minutes")).sum();
    let mut text = format!(
        "# {}\n\n{}\n\n`{command}`, {}, {}; seed {}; {minutes:.1} minutes in all.\n\n{}\n",
        pipeline.title,
        pipeline.about.trim(),
        page::machine(),
        page::today(),
        pipeline.seed,
        table(pipeline, found),
    );
    text +=
        "Behind each number in brackets: what the stage changed of it, against the stage before that was measured.\n";
    for (stage, measures) in pipeline.stage.iter().zip(found) {
        let _ = writeln!(text, "\n## {}\n\n{}\n", stage.name(), stage.about.trim());
        for (key, value) in measures
            .iter()
            .filter(|(key, _)| key.starts_with("run.eval/") || key.starts_with("after."))
        {
            let _ = writeln!(text, "- `{key}` {value:.4}");
        }
        let steps = stage.steps(&pipeline.suite).unwrap_or_default();
        text += &page::commands(&steps);
    }
    text
}

/// A row a stage, then the whole way.
pub(crate) fn table(pipeline: &Pipeline, found: &[Measures]) -> String {
    let mut text = "| stage |".to_owned();
    for column in &pipeline.column {
        let _ = write!(text, " {} |", column.heading);
    }
    text += " minutes | peak memory |\n|---|";
    text += &"---|".repeat(pipeline.column.len() + 2);
    let keys: Vec<String> = pipeline
        .column
        .iter()
        .map(|column| format!("after.{}", column.key))
        .collect();
    let mut last: Vec<Option<f64>> = vec![None; keys.len()];
    let mut first = last.clone();
    for (stage, measures) in pipeline.stage.iter().zip(found) {
        let _ = write!(text, "\n| {} |", stage.name());
        for (idx, column) in pipeline.column.iter().enumerate() {
            let value = measures.get(&keys[idx]).copied();
            let shown = match (value, last[idx]) {
                (Some(value), Some(before)) => {
                    format!("{} ({})", column.show(value), signed(column.show(value - before)))
                }
                (Some(value), None) => column.show(value),
                (None, _) => String::new(),
            };
            let _ = write!(text, " {shown} |");
            first[idx] = first[idx].or(value);
            last[idx] = value.or(last[idx]);
        }
        let minutes = measures
            .get("wall.minutes")
            .map_or(String::new(), |minutes| format!("{minutes:.1}"));
        let memory = measures
            .get("run.peak_memory")
            .map_or(String::new(), |bytes| format!("{:.2} GB", bytes / 1e9));
        let _ = write!(text, " {minutes} | {memory} |");
    }
    text += "\n| from start to end |";
    for (idx, column) in pipeline.column.iter().enumerate() {
        let shown = match (first[idx], last[idx]) {
            (Some(first), Some(last)) => signed(column.show(last - first)),
            _ => String::new(),
        };
        let _ = write!(text, " {shown} |");
    }
    let minutes: f64 = found.iter().filter_map(|measures| measures.get("wall.minutes")).sum();
    let _ = writeln!(text, " {minutes:.1} | |");
    text
}

fn signed(shown: String) -> String {
    if shown.starts_with('-') {
        shown
    } else {
        format!("+{shown}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_shows_its_gain_and_the_last_row_the_whole_way() {
        let pipeline: Pipeline = toml::from_str(
            "title = 't'\nsuite = 's'\n[[column]]\nkey = 'a.b'\nheading = 'right'\nform = 'share'\n\
             [[stage]]\nname = 'start'\nmodel = ['m']\n[[stage]]\nname = 'between'\ncommands = ['inspect m']\n\
             [[stage]]\nname = 'end'\nmodel = ['m']\n",
        )
        .unwrap();
        let measures = |value: Option<f64>| -> Measures {
            let value = value.map(|value| ("after.a.b".to_owned(), value));
            value.into_iter().chain([("wall.minutes".to_owned(), 1.5)]).collect()
        };
        let table = table(&pipeline, &[measures(Some(0.5)), measures(None), measures(Some(0.4))]);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| start | 50.0 % | 1.5 |  |",
                "| between |  | 1.5 |  |",
                "| end | 40.0 % (-10.0 %) | 1.5 |  |",
                "| from start to end | -10.0 % | 4.5 | |",
            ]
        );
    }
}
