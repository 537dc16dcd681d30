//! What the files and answers of a command tell, as measures by name.

use crate::results::{Measures, mean};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What `metrics.jsonl` tells of a run.
pub(crate) fn of_training(name: &str, metrics: &str) -> Result<Measures> {
    let mut lines = Vec::new();
    for line in metrics.lines() {
        lines.push(serde_json::from_str::<Value>(line).context("a line of `metrics.jsonl`")?);
    }
    let all = |key: &str| -> Vec<f64> { lines.iter().filter_map(|line| line.get(key)?.as_f64()).collect() };
    let mut measures = Measures::new();
    let losses = all("loss");
    ensure!(!losses.is_empty(), "`metrics.jsonl` has no `loss`");
    let last = &losses[losses.len() - losses.len().div_ceil(10)..];
    measures.extend(mean(last).map(|loss| (format!("{name}.loss"), loss)));
    let violations = all("max_violation");
    let last = &violations[violations.len() - violations.len().div_ceil(10)..];
    measures.extend(mean(last).map(|violation| (format!("{name}.max_violation"), violation)));
    for key in ["tokens_per_second", "rollout_tokens_per_second"] {
        let mut speeds = all(key);
        speeds.sort_by(f64::total_cmp);
        let middle = speeds.get(speeds.len() / 2);
        measures.extend(middle.map(|&speed| (format!("{name}.{key}"), speed)));
    }
    // Of the steps: an evaluation packs other rows, and has its own peak.
    let steps = lines.iter().filter(|line| line.get("loss").is_some());
    let peak = steps
        .filter_map(|line| line.get("peak_memory_bytes")?.as_f64())
        .reduce(f64::max);
    measures.extend(peak.map(|bytes| (format!("{name}.peak_memory"), bytes)));
    // The last evaluation's numbers.
    for line in &lines {
        for (key, value) in line
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.starts_with("eval/"))
        {
            measures.extend(value.as_f64().map(|value| (format!("{name}.{key}"), value)));
        }
    }
    let seconds = all("seconds").into_iter().reduce(f64::max);
    measures.extend(seconds.map(|seconds| (format!("{name}.minutes"), seconds / 60.0)));
    Ok(measures)
}

/// What the lines of `finetune moa` tell, as means over the questions.
pub(crate) fn of_answers(name: &str, lines: &str) -> Result<Measures> {
    let mut all: Vec<[f64; 4]> = Vec::new();
    for line in lines.lines() {
        let answer: Value = serde_json::from_str(line).context("a line of `finetune moa`")?;
        let copied = answer["copied_2"].as_object().into_iter().flatten();
        all.push([
            answer["distinct_2"].as_f64().unwrap_or(0.0),
            copied.filter_map(|(_, share)| share.as_f64()).fold(0.0, f64::max),
            answer["tokens"].as_f64().unwrap_or(0.0),
            answer["failures"].as_array().map_or(0, Vec::len) as f64,
        ]);
    }
    ensure!(!all.is_empty(), "`finetune moa` answered nothing");
    let names = ["distinct_2", "copied_2", "tokens", "failures"];
    let means = names.iter().enumerate().map(|(idx, key)| {
        let sum: f64 = all.iter().map(|numbers| numbers[idx]).sum();
        (format!("{name}.{key}"), sum / all.len() as f64)
    });
    Ok(means.collect())
}

/// Every number of a JSON object and of those within, by their keys with dots between.
pub(crate) fn numbers(name: &str, value: &Value, measures: &mut Measures) {
    if let Some(number) = value.as_f64() {
        measures.insert(name.to_owned(), number);
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        numbers(&format!("{name}.{key}"), value, measures);
    }
}

/// Every number of a report of `finetune evaluate --json`: `NAME.TASK.METRIC`.
pub(crate) fn of_report(name: &str, report: &Value) -> Measures {
    let mut measures = Measures::new();
    for (task, found) in report["tasks"].as_object().into_iter().flatten() {
        for (metric, value) in found.as_object().into_iter().flatten() {
            if let Some(value) = value.as_f64() {
                measures.insert(format!("{name}.{task}.{metric}"), value);
            }
        }
    }
    measures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_called_by_their_keys() {
        let mut measures = Measures::new();
        let value = serde_json::json!({ "after": { "bytes": 7, "what": "x", "of": [1] }, "seconds": 0.5, "no": null });
        numbers("p", &value, &mut measures);
        let wanted = [("p.after.bytes", 7.0), ("p.seconds", 0.5)];
        assert_eq!(measures, wanted.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn a_run_is_measured_by_its_last_tenth_and_its_peak() {
        let lines: Vec<String> = (1..=20)
            .map(|step| {
                format!("{{\"step\":{step},\"loss\":{step}.0,\"tokens_per_second\":{step}.0,\"peak_memory_bytes\":7,\"seconds\":{step}}}")
            })
            .collect();
        let lines = lines
            .into_iter()
            .chain(["{\"step\":20,\"eval/loss\":1.0,\"peak_memory_bytes\":9}".to_owned()]);
        let measures = of_training("train", &lines.collect::<Vec<_>>().join("\n")).unwrap();
        let wanted = [
            ("loss", 19.5),
            ("tokens_per_second", 11.0),
            ("minutes", 20.0 / 60.0),
            ("peak_memory", 7.0),
        ];
        for (name, value) in wanted {
            assert!((measures[&format!("train.{name}")] - value).abs() < 1e-12, "{name}");
        }
        assert!(of_training("train", "").is_err());
    }

    #[test]
    fn answers_are_measured_as_means_over_the_questions() {
        let lines = "{\"distinct_2\":0.5,\"copied_2\":{\"a\":0.2,\"b\":0.6},\"tokens\":10,\"failures\":[]}\n\
                     {\"distinct_2\":1.0,\"copied_2\":{},\"tokens\":30,\"failures\":[{\"agent\":\"x\"}]}\n";
        let measures = of_answers("asked", lines).unwrap();
        for (name, value) in [
            ("distinct_2", 0.75),
            ("copied_2", 0.3),
            ("tokens", 20.0),
            ("failures", 0.5),
        ] {
            assert!((measures[&format!("asked.{name}")] - value).abs() < 1e-12, "{name}");
        }
        assert!(of_answers("asked", "").is_err());
    }
}
