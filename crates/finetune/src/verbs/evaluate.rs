//! `finetune evaluate`: a model measured by a suite of tasks, and held against an earlier report; or the reports of a
//! sequence of tasks held together.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use data::{Dataset, Row};
use evaluate::{Change, Metric, PlainPrompts, Report, Sequence, Suite, Task};
use methods::recipe::listing;
use models::prompts;
use serde_json::json;

use crate::args::FormArgs;
use crate::args::ModelArgs;
use crate::failure::usage;
use crate::output;

/// Arguments of `evaluate`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A suite is a TOML file of tasks: [[task]] with name, kind (perplexity, classification, multiple_choice,\n\
                  exact_match, pairs or replies), data, and perhaps tolerance.\n\
                  `pairs` asks whether the model finds the better of two replies likelier. `replies` lets the model reply and\n\
                  measures its rewards (rewards = [{ kind = \"length\", target = 20 }], as in a recipe of ppo; docs/rewards.md has\n\
                  the kinds, and what a reward program reads and writes), the replies' length, and how far they are from the base\n\
                  beneath an adapter.\n\
                  With --compare the exit code is 1 if a task became worse by more than its tolerance, and the error names its\n\
                  figures.\n\
                  With --sequence no model is run: a TOML file names the report after each stage of a training on one task after\n\
                  another ([[stage]] with task and report; before and general may be given), and overall performance, backward\n\
                  transfer and the drift of general text are shown.\n\n\
                  Example:\n  finetune evaluate --model smollm2-135m-instruct --suite suite.toml --json > before.json\n  \
                  finetune evaluate --model smollm2-135m-instruct --adapter runs/demo --suite suite.toml --compare before.json\n  \
                  finetune evaluate --sequence stages.toml",
    mut_arg("model", |model| model.required(false).default_value("").hide_default_value(true).required_unless_present("sequence"))
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The tasks, a TOML file
    #[arg(long, value_name = "FILE", required_unless_present = "sequence")]
    suite: Option<PathBuf>,
    /// The reports of a sequence of tasks, a TOML file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "suite", "compare"])]
    sequence: Option<PathBuf>,
    #[command(flatten)]
    form: FormArgs,
    /// Compare with a report that `--json` wrote earlier
    #[arg(long, value_name = "REPORT")]
    compare: Option<PathBuf>,
    /// The report as JSON on stdout
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs every task.
    pub fn run(self) -> Result<ExitCode> {
        if let Some(path) = &self.sequence {
            let found = Sequence::load(path)?.measure()?;
            match self.json {
                true => output::json(&found)?,
                false => output::piece(&found.to_string())?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let model = &self.model;
        let Some(suite) = &self.suite else {
            return Err(usage("wanted `--model` and `--suite`, or `--sequence`"));
        };
        let suite = Suite::load(suite)?;
        let before = self.compare.as_deref().map(Report::read).transpose()?;
        if let Some(before) = &before {
            check_same(before, &suite, self.compare.as_deref().unwrap_or(Path::new("")))?;
        }
        for task in &suite.tasks {
            models::datafile::tell(&task.data, &task.reading(), &output::events());
        }
        let mut loaded = model.load(&output::events())?;
        let form = self.form.choice().choose(&loaded.source, &loaded.tokenizer)?;
        loaded.form = Some(form);
        if self.form.choice().is_open(&loaded.source, form) && suite.tasks.iter().any(has_plain_prompts) {
            prompts::tell_open(&output::events());
        }
        let adapters: Vec<String> = model.adapter.iter().map(ToString::to_string).collect();
        let name = match adapters.as_slice() {
            [] => model.model.clone(),
            adapters => format!("{} with {}", model.model, adapters.join(", ")),
        };
        let report = session::evaluation::evaluate(&suite, &name, &loaded)?;
        if let Some(before) = &before {
            tell_other_form(before, &report);
        }
        let changes = before
            .as_ref()
            .map(|before| evaluate::compare(before, &report, &suite))
            .unwrap_or_default();
        if self.json {
            let mut value = serde_json::to_value(&report)?;
            if before.is_some() {
                value["changes"] = json!(changes.iter().map(as_json).collect::<Vec<_>>());
            }
            output::json(&value)?;
        } else {
            output::piece(&report.to_string())?;
            changes.iter().try_for_each(|change| output::line(shown(change)))?;
        }
        let worse: Vec<String> = changes
            .iter()
            .filter(|change| change.regressed)
            .map(|change| {
                let tolerance = suite
                    .tasks
                    .iter()
                    .find(|task| task.name == change.task)
                    .map(|task| task.tolerance);
                let tolerance = tolerance.unwrap_or_default();
                let allowed = match change.metric.less_is_better() {
                    true => format!("it may rise by {tolerance} of what it was"),
                    false => format!("it may fall by {tolerance}"),
                };
                format!("task {} ({allowed})", figures(change))
            })
            .collect();
        if worse.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let regressed = changes.iter().filter(|change| change.regressed);
        let names: Vec<&str> = regressed.map(|change| change.task.as_str()).collect();
        bail!(
            "worse than `{}` by more than the tolerance: {}\n{}",
            self.compare.unwrap_or_default().display(),
            names.join(", "),
            worse.join("\n")
        )
    }
}

/// Says where two reports were made with prompts in different forms.
fn tell_other_form(before: &Report, now: &Report) {
    let shown = |form: PlainPrompts| match form {
        PlainPrompts::ChatTemplate => "in the chat template",
        PlainPrompts::RawText => "as plain text",
    };
    if let (Some(then), Some(now)) = (before.plain_prompts, now.plain_prompts)
        && then != now
    {
        output::note(format!(
            "prompts that are plain texts were given {} in the earlier report and are given {} now, each as its model was \
             trained\nhint: `--chat` or `--no-chat` asks both alike",
            shown(then),
            shown(now)
        ));
    }
}

/// Whether a task asks with prompts that are plain texts; a file that cannot be read is refused when it is.
fn has_plain_prompts(task: &Task) -> bool {
    let rows = Dataset::read(&task.data, &task.reading());
    let is_prompt = |row: &Row| row.gives_turns() == Some(false) && !matches!(row, Row::Text(_));
    rows.is_ok_and(|rows| rows.rows().any(is_prompt))
}

/// A task without a counterpart, or whose counterpart measured something else, would pass unseen.
fn check_same(before: &Report, suite: &Suite, path: &Path) -> Result<()> {
    for task in &suite.tasks {
        let metric = Metric::of(task.kind);
        let found = match before.tasks.get(&task.name) {
            Some(there) if there.value(metric).is_some() => continue,
            Some(_) => format!("that task without `{}`", metric.name()),
            None => format!("only {}", listing(before.tasks.keys().map(String::as_str))),
        };
        bail!(
            "`{}`: wanted task `{}` of the suite with its `{}`, found {found}\n\
             hint: make the report anew with this suite and `--json`",
            path.display(),
            task.name,
            metric.name()
        )
    }
    Ok(())
}

fn as_json(change: &Change) -> serde_json::Value {
    json!({
        "task": change.task,
        "metric": change.metric.name(),
        "before": change.before,
        "after": change.after,
        "regressed": change.regressed,
    })
}

fn shown(change: &Change) -> String {
    let verdict = if change.regressed {
        "  worse than the tolerance allows"
    } else {
        ""
    };
    format!("{}{verdict}", figures(change))
}

/// `NAME  METRIC BEFORE -> AFTER`.
fn figures(change: &Change) -> String {
    format!(
        "{}  {} {:.4} -> {:.4}",
        change.task,
        change.metric.name(),
        change.before,
        change.after
    )
}
