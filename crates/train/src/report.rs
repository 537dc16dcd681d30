//! What a run was: its numbers, and `report.md` with curves as pictures and answers before and after.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use tch::Device;
use tensor_core::device;

use crate::state::State;
use crate::{Best, Entry, ReportTo, Result, RunDir, TrainConfig, chart, heat};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step was done.
    Completed,
    /// The patience was up.
    StoppedEarly {
        /// Steps done.
        step: usize,
    },
    /// The user stopped it; nothing is lost.
    Interrupted {
        /// Steps done.
        step: usize,
        /// What to continue from.
        checkpoint: PathBuf,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::StoppedEarly { step } => {
                write!(f, "stopped after step {step}: the evaluations no longer got better")
            }
            Self::Interrupted { step, checkpoint } => write!(
                f,
                "interrupted after step {step}; saved as `{}`; the same command with `--resume` continues from there",
                checkpoint.display()
            ),
        }
    }
}

/// What a run was.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Optimiser steps done.
    pub num_steps: usize,
    /// Passes over the data done.
    pub num_epochs: f64,
    /// Tokens that went through the model.
    pub num_tokens: usize,
    /// Seconds of the run, interruptions left out.
    pub seconds: f64,
    /// Tokens a second, evaluations and saving left out.
    pub tokens_per_second: f64,
    /// Peak bytes: resident on the CPU, allocated on a CUDA device.
    pub peak_memory_bytes: Option<u64>,
    /// Mean loss of all steps.
    pub train_loss: f64,
    /// The best evaluation, if one was asked for.
    pub best: Option<Best>,
    /// All of `metrics.jsonl`.
    pub history: Vec<Entry>,
    device: Device,
    writes_markdown: bool,
}

/// One question with the answers of the model before and after.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What was asked.
    pub prompt: String,
    /// The answer before training.
    pub before: String,
    /// The answer after training.
    pub after: String,
    /// The answer wanted, where there is one.
    pub wanted: Option<String>,
}

/// What the caller tells of the run, for `report.md`.
#[derive(Clone, Debug, Default)]
pub struct ReportText {
    /// The heading.
    pub title: String,
    /// Settings worth a line: name and value.
    pub settings: Vec<(String, String)>,
    /// Results: name, before, after.
    pub results: Vec<(String, String, String)>,
    /// Answers before and after.
    pub samples: Vec<Sample>,
}

impl Report {
    pub(crate) fn new(outcome: Outcome, state: State, config: &TrainConfig, device: Device) -> Self {
        Self {
            outcome,
            num_steps: state.step,
            num_epochs: state.epoch(),
            num_tokens: state.tokens,
            seconds: state.seconds,
            tokens_per_second: state.tokens as f64 / state.step_seconds.max(1e-9),
            peak_memory_bytes: device::peak_memory(device),
            train_loss: state.total_loss / (state.step as f64).max(1.0),
            best: state.best,
            history: state.history,
            device,
            writes_markdown: config.report_to.contains(&ReportTo::Markdown),
        }
    }

    /// Writes `report.md` and the pictures in `report/`, if `report_to` asks for them.
    pub fn write(&self, dir: &RunDir, story: &ReportText) -> Result<Option<PathBuf>> {
        if !self.writes_markdown {
            return Ok(None);
        }
        let folder = dir.path().join("report");
        std::fs::create_dir_all(&folder).map_err(crate::Error::file(&folder, "make the folder"))?;
        let mut pictures = Vec::new();
        for (title, series) in self.curves() {
            let name = format!("report/{}.svg", title.replace(['/', ' '], "-"));
            let svg = chart::draw(&title, &series)?;
            let path = dir.path().join(&name);
            std::fs::write(&path, svg).map_err(crate::Error::file(&path, "write"))?;
            pictures.push((title, name));
        }
        for (title, cells) in heat::maps(&self.history) {
            let name = format!("report/{}.svg", title.replace(['/', ' '], "-"));
            let path = dir.path().join(&name);
            std::fs::write(&path, heat::draw(&title, &cells)?).map_err(crate::Error::file(&path, "write"))?;
            pictures.push((title, name));
        }
        dir.write_file("report.md", self.markdown(story, &pictures).as_bytes())?;
        Ok(Some(dir.path().join("report.md")))
    }

    /// One chart a metric; a metric and its evaluation share one.
    fn curves(&self) -> BTreeMap<String, Vec<chart::Series>> {
        const NO_CURVES: [&str; 3] = ["tokens", "seconds", "peak_memory_bytes"];
        let mut charts: BTreeMap<String, Vec<chart::Series>> = BTreeMap::new();
        for entry in &self.history {
            for (name, value) in &entry.values {
                // Numbers of many layers and units share a map.
                let has_none = NO_CURVES.contains(&name.as_str()) || heat::cell(name).is_some();
                let (Some(value), false) = (value.as_f64(), has_none) else {
                    continue;
                };
                let (title, line) = match name.strip_prefix("eval/") {
                    Some(rest) => (rest, "eval"),
                    None => (name.as_str(), "train"),
                };
                let lines = charts.entry(title.to_owned()).or_default();
                let point = (entry.step as f64, value);
                match lines.iter_mut().find(|(name, _)| name == line) {
                    Some((_, points)) => points.push(point),
                    None => lines.push((line.to_owned(), vec![point])),
                }
            }
        }
        charts
    }

    fn markdown(&self, story: &ReportText, pictures: &[(String, String)]) -> String {
        let mut text = format!(
            "# {}\n\n",
            if story.title.is_empty() {
                "Training run"
            } else {
                &story.title
            }
        );
        let mut run = vec![
            ("outcome".to_owned(), self.outcome.to_string()),
            ("steps".into(), self.num_steps.to_string()),
            ("epochs".into(), format!("{:.2}", self.num_epochs)),
            ("tokens".into(), self.num_tokens.to_string()),
            ("mean loss".into(), format!("{:.4}", self.train_loss)),
            ("time".into(), format!("{:.1} s", self.seconds)),
            ("tokens per second".into(), format!("{:.0}", self.tokens_per_second)),
        ];
        if let Some(bytes) = self.peak_memory_bytes {
            run.push(("peak memory".into(), format!("{:.2} GB", bytes as f64 / 1e9)));
        }
        if let Some(best) = &self.best {
            run.push((
                "best".into(),
                format!("{} {:.4} after step {}", best.metric, best.value, best.step),
            ));
        }
        run.extend([("machine".into(), machine(self.device)), ("date".into(), today())]);
        table(&mut text, &["", ""], &rows(&run));
        section(&mut text, "Results", &["", "before", "after"], &triples(&story.results));
        if !pictures.is_empty() {
            text.push_str("\n## Curves\n");
            for (title, name) in pictures {
                let _ = write!(text, "\n![{title}]({name})\n");
            }
        }
        samples(&mut text, &story.samples);
        section(&mut text, "Settings", &["", ""], &rows(&story.settings));
        text
    }
}

fn rows(pairs: &[(String, String)]) -> Vec<Vec<&str>> {
    pairs.iter().map(|(name, value)| vec![name.as_str(), value]).collect()
}

fn triples(results: &[(String, String, String)]) -> Vec<Vec<&str>> {
    results
        .iter()
        .map(|(name, before, after)| vec![name.as_str(), before, after])
        .collect()
}

fn section(text: &mut String, title: &str, head: &[&str], rows: &[Vec<&str>]) {
    if !rows.is_empty() {
        let _ = write!(text, "\n## {title}\n\n");
        table(text, head, rows);
    }
}

fn table(text: &mut String, head: &[&str], rows: &[Vec<&str>]) {
    let line = |cells: &[&str]| {
        let cells: Vec<String> = cells
            .iter()
            .map(|cell| cell.replace('|', "\\|").replace('\n', " "))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    text.push_str(&line(head));
    let _ = writeln!(text, "|{}", "---|".repeat(head.len()));
    for row in rows {
        text.push_str(&line(row));
    }
}

fn samples(text: &mut String, samples: &[Sample]) {
    if samples.is_empty() {
        return;
    }
    text.push_str("\n## Answers before and after\n");
    for Sample {
        prompt,
        before,
        after,
        wanted,
    } in samples
    {
        let parts = [
            ("Prompt", Some(prompt)),
            ("Before", Some(before)),
            ("After", Some(after)),
            ("Wanted", wanted.as_ref()),
        ];
        for (name, part) in parts {
            if let Some(part) = part {
                let quoted = part
                    .trim()
                    .lines()
                    .fold(String::new(), |text, line| text + "> " + line + "\n");
                let _ = write!(
                    text,
                    "\n{name}:\n\n{}",
                    if quoted.is_empty() { "> (nothing)\n" } else { &quoted }
                );
            }
        }
        text.push_str("\n---\n");
    }
}

/// The device, the processor and its threads, in words.
fn machine(device: Device) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(':')
            .map(|(_, name)| name.trim())
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kind = match device {
        Device::Cuda(index) => format!("CUDA device {index}; host "),
        _ => String::new(),
    };
    format!(
        "{kind}{}, {cores} cores, {} threads",
        model.unwrap_or("unknown processor"),
        tch::get_num_threads()
    )
}

/// The date in UTC, `YYYY-MM-DD`.
fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    date((seconds / 86400) as i64)
}

/// The civil date of a day counted from 1970-01-01, by Howard Hinnant's `civil_from_days`.
fn date(day: i64) -> String {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (day, wanted) in [
            (0, "1970-01-01"),
            (19_782, "2024-02-29"),
            (20_819, "2027-01-01"),
            (11_016, "2000-02-29"),
        ] {
            assert_eq!(date(day), wanted);
        }
    }

    #[test]
    fn a_cell_cannot_break_its_table() {
        let mut text = String::new();
        table(&mut text, &["a", "b"], &[vec!["x|y", "two\nlines"]]);
        assert_eq!(text, "| a | b |\n|---|---|\n| x\\|y | two lines |\n");
    }
}
