//! Forgetting over a sequence of tasks: overall performance, backward transfer, and the drift of general text.
//!
//! `R[t][i]` is the score on task i after stage t, of T stages. Overall performance `1/T Σᵢ R[T][i]`; backward transfer
//! `1/(T-1) Σ_{i<T} (R[T][i] - R[i][i])`, the mean over the T - 1 tasks that can be forgotten.
//!
//! Source: TRACE, Wang et al. 2023, arXiv:2310.06762. Deviation: some write 1/T before the second sum, where the last
//! task adds nothing but to the count; the divisor is stated beside the number.

use std::fmt;

use serde::Serialize;

use crate::{Error, Kind, Metric, Report, Result};

/// One stage of a sequence: the task that was learnt in it, and the report after it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The task of the report that this stage taught.
    pub task: String,
    /// What was measured after it.
    pub report: Report,
}

/// What a sequence of tasks left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Continual {
    /// The tasks, in the order in which they were learnt.
    pub tasks: Vec<String>,
    /// `R[t][i]`; none where it was not measured.
    pub scores: Vec<Vec<Option<f64>>>,
    /// Mean score of all tasks at the end.
    pub overall_performance: f64,
    /// Mean change of each task's score since its own stage; none with one stage.
    pub backward_transfer: Option<f64>,
    /// What the sum of changes was divided by: the stages but the last.
    pub backward_transfer_divisor: usize,
    /// How general text became less likely.
    pub drift: Vec<Drift>,
}

/// One general text's perplexity against the first report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// The perplexity task.
    pub task: String,
    /// Its perplexity in the first report.
    pub first: f64,
    /// Each later report.
    pub later: Vec<Drifted>,
}

/// A perplexity and how far it is from the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drifted {
    /// The stage, from 1.
    pub stage: usize,
    /// The perplexity after it.
    pub perplexity: f64,
    /// `perplexity / first - 1`.
    pub relative: f64,
    /// `ln perplexity - ln first`: by how much a token became less likely, in nats.
    pub nats_per_token: f64,
}

/// Measures a sequence. `before`: the report before the first stage; `general`: the perplexity tasks whose drift is
/// asked for, none for all that every report has.
///
/// Errors: no stage, a task learnt twice, a score that a number needs and no report has, an unknown general task.
pub fn continual(before: Option<&Report>, stages: &[Stage], general: &[String]) -> Result<Continual> {
    let tasks: Vec<String> = stages.iter().map(|stage| stage.task.clone()).collect();
    let (Some(last), count) = (stages.last(), stages.len()) else {
        return Err(Error::Sequence {
            what: "the sequence".into(),
            found: "it has no stage".into(),
            hint: "add `[[stage]]` with `task` and `report`",
        });
    };
    if let Some(twice) = tasks
        .iter()
        .enumerate()
        .find(|(idx, task)| tasks[..*idx].contains(task))
    {
        return Err(Error::Sequence {
            what: format!("stage {}", twice.0 + 1),
            found: format!("task `{}` was learnt in an earlier stage", twice.1),
            hint: "each stage teaches another task",
        });
    }
    let final_scores = tasks.iter().map(|task| needed(&last.report, task, count));
    let final_scores = final_scores.collect::<Result<Vec<f64>>>()?;
    let own = stages
        .iter()
        .enumerate()
        .map(|(idx, stage)| needed(&stage.report, &stage.task, idx + 1));
    let own = own.collect::<Result<Vec<f64>>>()?;
    let divisor = count - 1;
    let changes = final_scores
        .iter()
        .zip(&own)
        .take(divisor)
        .map(|(last, own)| last - own);
    Ok(Continual {
        scores: stages
            .iter()
            .map(|stage| tasks.iter().map(|task| score(&stage.report, task)).collect())
            .collect(),
        overall_performance: final_scores.iter().sum::<f64>() / count as f64,
        backward_transfer: (divisor > 0).then(|| changes.sum::<f64>() / divisor as f64),
        backward_transfer_divisor: divisor,
        drift: drift(before, stages, general)?,
        tasks,
    })
}

/// The number by which a task of a report is judged, where more is better.
fn score(report: &Report, task: &str) -> Option<f64> {
    let found = report.tasks.get(task)?;
    let metric = Metric::of(found.kind);
    found.value(metric).filter(|_| !metric.less_is_better())
}

fn needed(report: &Report, task: &str, stage: usize) -> Result<f64> {
    score(report, task).ok_or_else(|| {
        let found = if report.tasks.contains_key(task) {
            format!("task `{task}` is measured by its perplexity, which is no score")
        } else {
            let there: Vec<&str> = report.tasks.keys().map(String::as_str).collect();
            format!("no task `{task}`, only {}", there.join(", "))
        };
        Error::Sequence {
            what: format!("the report of stage {stage}"),
            found,
            hint: "measure every stage with one suite that holds all tasks",
        }
    })
}

fn drift(before: Option<&Report>, stages: &[Stage], general: &[String]) -> Result<Vec<Drift>> {
    let mut reports = before.map(|report| (0, report)).into_iter().chain(numbered(stages));
    let Some((_, first)) = reports.next() else {
        return Ok(Vec::new());
    };
    let later: Vec<(usize, &Report)> = reports.collect();
    let perplexity = |report: &Report, task: &str| report.tasks.get(task).and_then(|found| found.perplexity);
    let names: Vec<&String> = if general.is_empty() {
        let texts = first.tasks.iter().filter(|(_, task)| task.kind == Kind::Perplexity);
        let everywhere = |name: &&String| later.iter().all(|(_, report)| perplexity(report, name).is_some());
        texts.map(|(name, _)| name).filter(everywhere).collect()
    } else {
        general.iter().collect()
    };
    let of = |task: &String| -> Result<Drift> {
        let needed = |(stage, report): (usize, &Report)| {
            perplexity(report, task).ok_or_else(|| Error::Sequence {
                what: match stage {
                    0 => "the report before the first stage".into(),
                    stage => format!("the report of stage {stage}"),
                },
                found: format!("no perplexity of `{task}`"),
                hint: "name a task of `kind = \"perplexity\"` in `general`",
            })
        };
        let start = needed((usize::from(before.is_none()), first))?;
        let later = later.iter().map(|&(stage, report)| {
            let perplexity = needed((stage, report))?;
            Ok(Drifted {
                stage,
                perplexity,
                relative: perplexity / start - 1.0,
                nats_per_token: (perplexity / start).ln(),
            })
        });
        Ok(Drift {
            task: task.clone(),
            first: start,
            later: later.collect::<Result<_>>()?,
        })
    };
    names.into_iter().map(of).collect()
}

fn numbered(stages: &[Stage]) -> impl Iterator<Item = (usize, &Report)> {
    stages.iter().enumerate().map(|(idx, stage)| (idx + 1, &stage.report))
}

impl fmt::Display for Continual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |task: &String| task.chars().count().max(6);
        write!(f, "{:19}", "score after")?;
        for task in &self.tasks {
            write!(f, "  {task:>width$}", width = width(task))?;
        }
        writeln!(f)?;
        for (stage, row) in self.scores.iter().enumerate() {
            write!(f, "{:19}", format!("stage {}", stage + 1))?;
            for (task, score) in self.tasks.iter().zip(row) {
                let score = score.map_or_else(|| "-".into(), |score| format!("{score:.4}"));
                write!(f, "  {score:>width$}", width = width(task))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "overall performance  {:.4}", self.overall_performance)?;
        if let Some(transfer) = self.backward_transfer {
            let divisor = self.backward_transfer_divisor;
            writeln!(
                f,
                "backward transfer    {transfer:+.4}  (mean over the {divisor} stages before the last)"
            )?;
        }
        for drift in &self.drift {
            writeln!(f, "perplexity of {}  {:.3} at first", drift.task, drift.first)?;
            for later in &drift.later {
                let (relative, nats) = (100.0 * later.relative, later.nats_per_token);
                let stage = format!("  stage {}", later.stage);
                writeln!(
                    f,
                    "{stage:19} {:.3}  {relative:+.1} %, {nats:+.4} nats a token",
                    later.perplexity
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskReport;

    /// A report of accuracies and of the perplexity of `general`.
    fn report(scores: &[(&str, f64)], general: f64) -> Report {
        let accuracy = |&(name, value): &(&str, f64)| {
            let task = TaskReport {
                accuracy: Some(value),
                ..TaskReport::of(Kind::Classification)
            };
            (name.to_owned(), task)
        };
        let text = TaskReport {
            perplexity: Some(general),
            ..TaskReport::of(Kind::Perplexity)
        };
        Report {
            model: "m".into(),
            plain_prompts: None,
            tasks: scores
                .iter()
                .map(accuracy)
                .chain([("general".to_owned(), text)])
                .collect(),
        }
    }

    fn stage(task: &str, scores: &[(&str, f64)], general: f64) -> Stage {
        Stage {
            task: task.into(),
            report: report(scores, general),
        }
    }

    /// R = [[.8], [.5, .9], [.4, .7, .6]].
    fn stages() -> Vec<Stage> {
        vec![
            stage("a", &[("a", 0.8)], 20.0),
            stage("b", &[("a", 0.5), ("b", 0.9)], 22.0),
            stage("c", &[("a", 0.4), ("b", 0.7), ("c", 0.6)], 25.0),
        ]
    }

    #[test]
    fn overall_performance_and_backward_transfer_are_traces() {
        let found = continual(None, &stages(), &[]).unwrap();
        // (.4 + .7 + .6) / 3, and ((.4 - .8) + (.7 - .9)) / 2.
        assert!((found.overall_performance - 0.566_666_666_667).abs() < 1e-9);
        assert!((found.backward_transfer.unwrap() + 0.3).abs() < 1e-12);
        assert_eq!(found.backward_transfer_divisor, 2);
        assert_eq!(found.scores[1], [Some(0.5), Some(0.9), None]);
        let one = continual(None, &stages()[..1], &[]).unwrap();
        assert_eq!((one.backward_transfer, one.scores.len()), (None, 1));
    }

    #[test]
    fn general_text_drifts_from_the_first_report() {
        let before = report(&[], 16.0);
        for (before, first, wanted) in [
            (Some(&before), 16.0, vec![(1, 20.0), (2, 22.0), (3, 25.0)]),
            (None, 20.0, vec![(2, 22.0), (3, 25.0)]),
        ] {
            let found = continual(before, &stages(), &[]).unwrap();
            let drift = &found.drift[0];
            assert!(found.drift.len() == 1 && drift.task == "general" && (drift.first - first).abs() < 1e-12);
            assert_eq!(drift.later.len(), wanted.len());
            for (later, (stage, perplexity)) in drift.later.iter().zip(wanted) {
                assert_eq!(later.stage, stage);
                assert!((later.relative - (perplexity / first - 1.0)).abs() < 1e-12);
                assert!((later.nats_per_token - f64::ln(perplexity / first)).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_table_says_what_the_numbers_are() {
        let text = continual(None, &stages(), &[]).unwrap().to_string();
        for part in [
            "stage 2              0.5000  0.9000       -",
            "overall performance  0.5667",
            "backward transfer    -0.3000  (mean over the 2 stages before the last)",
            "perplexity of general  20.000 at first",
            "25.000  +25.0 %, +0.2231 nats a token",
        ] {
            assert!(text.contains(part), "`{part}` in:\n{text}");
        }
    }

    #[test]
    fn a_missing_score_is_an_error_that_names_it() {
        let missing = |idx: usize, task: &str| {
            let mut stages = stages();
            stages[idx].report.tasks.remove(task);
            continual(None, &stages, &[]).unwrap_err().to_string()
        };
        for (error, parts) in [
            (missing(2, "b"), ["stage 3", "no task `b`"]),
            (missing(1, "b"), ["stage 2", "no task `b`"]),
            (
                continual(None, &[], &[]).unwrap_err().to_string(),
                ["no stage", "[[stage]]"],
            ),
            (
                continual(None, &[stages(), stages()].concat(), &[])
                    .unwrap_err()
                    .to_string(),
                ["stage 4", "`a` was learnt"],
            ),
            (
                continual(None, &stages(), &["a".into()]).unwrap_err().to_string(),
                ["stage 1", "no perplexity of `a`"],
            ),
            (
                continual(None, &[stage("general", &[], 3.0)], &[])
                    .unwrap_err()
                    .to_string(),
                ["`general` is measured by its perplexity", "no score"],
            ),
        ] {
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
