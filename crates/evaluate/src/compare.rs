//! Two reports held against each other: what got better, what was forgotten.

use crate::{Metric, Report, Suite};

/// How one task's number moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The task.
    pub task: String,
    /// The number it is judged by.
    pub metric: Metric,
    /// Its value in the earlier report.
    pub before: f64,
    /// Its value now.
    pub after: f64,
    /// Whether it is worse by more than the task's tolerance.
    pub regressed: bool,
}

/// Every task of the suite that both reports have. Accuracies may fall by the tolerance, perplexities rise by that share.
pub fn compare(before: &Report, after: &Report, suite: &Suite) -> Vec<Change> {
    let tasks = suite.tasks.iter().filter_map(|task| {
        let metric = Metric::of(task.kind);
        let before = before.tasks.get(&task.name)?.value(metric)?;
        let after = after.tasks.get(&task.name)?.value(metric)?;
        let worse = if metric.less_is_better() {
            after / before - 1.0
        } else {
            before - after
        };
        Some(Change {
            task: task.name.clone(),
            metric,
            before,
            after,
            regressed: worse > task.tolerance || !after.is_finite(),
        })
    });
    tasks.collect()
}

/// Forgetting as a number: the geometric mean over both reports' perplexity tasks of `after / before`; 1 is none.
pub fn perplexity_ratio(before: &Report, after: &Report) -> Option<f64> {
    let logs: Vec<f64> = before
        .tasks
        .iter()
        .filter_map(|(name, task)| Some((after.tasks.get(name)?.perplexity? / task.perplexity?).ln()))
        .collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, TaskReport};

    fn report(accuracy: f64, perplexity: f64) -> Report {
        let a = TaskReport {
            accuracy: Some(accuracy),
            ..TaskReport::of(Kind::Classification)
        };
        let p = TaskReport {
            perplexity: Some(perplexity),
            ..TaskReport::of(Kind::Perplexity)
        };
        Report {
            model: "m".into(),
            plain_prompts: None,
            tasks: [("a".to_owned(), a), ("p".to_owned(), p)].into(),
        }
    }

    fn suite() -> Suite {
        toml::from_str("[[task]]\nname = \"a\"\nkind = \"classification\"\ndata = \"x\"\n[[task]]\nname = \"p\"\nkind = \"perplexity\"\ndata = \"x\"\ntolerance = 0.1\n").unwrap()
    }

    #[test]
    fn a_fall_past_the_tolerance_is_a_regression() {
        let changes = compare(&report(0.8, 20.0), &report(0.77, 21.9), &suite());
        assert_eq!(
            changes.iter().map(|change| change.regressed).collect::<Vec<_>>(),
            [true, false]
        );
        let changes = compare(&report(0.8, 20.0), &report(0.79, 22.1), &suite());
        assert_eq!(
            changes.iter().map(|change| change.regressed).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn forgetting_is_the_ratio_of_perplexities() {
        assert!((perplexity_ratio(&report(0.0, 20.0), &report(0.0, 25.0)).unwrap() - 1.25).abs() < 1e-12);
    }
}
