//! In what a run that is resumed differs from the one that began, and what of it would change the result.
//!
//! The rule: what goes on must be what an uninterrupted run with the new recipe would have become. A setting that only says
//! where, how often or how much is written may change; a schedule may, if it gave every step so far the same learning rate;
//! anything else is refused, and let through by `--allow` only where going on with it has a meaning.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use models::provenance::short;
use serde::Deserialize;
use serde_json::Value;
use train::{RunDir, TrainConfig};

use super::Record;
use super::inputs::flat;

/// How far a run has come.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Progress {
    /// Optimiser steps done.
    #[serde(rename = "step")]
    pub(super) done: usize,
    num_steps_per_epoch: usize,
}

impl Progress {
    /// Of the run in `dir`.
    pub(super) fn of(dir: &RunDir) -> Result<Self> {
        let Some(checkpoint) = dir.resume_from()? else {
            return Ok(Self {
                done: 0,
                num_steps_per_epoch: 1,
            });
        };
        let path = checkpoint.path.join("state.json");
        let place = || format!("`{}`", path.display());
        serde_json::from_slice(&std::fs::read(&path).with_context(place)?).with_context(place)
    }
}

/// A key that says something else than when the run began.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) key: String,
    /// What it was.
    pub(super) wanted: String,
    /// What it is.
    pub(super) found: String,
    /// Whether the result is that of a run that never knew the old value.
    pub(super) is_exact: bool,
    /// Whether `--allow` may let it through.
    pub(super) is_allowable: bool,
}

/// What a schedule is made of.
const SCHEDULE: [&str; 7] = [
    "train.max_steps",
    "train.num_train_epochs",
    "train.learning_rate",
    "train.lr_scheduler_type",
    "train.lr_scheduler_kwargs",
    "train.warmup_steps",
    "train.warmup_ratio",
];
/// How one step's documents are divided among micro-batches.
const BATCH: [&str; 2] = ["train.per_device_train_batch_size", "train.gradient_accumulation_steps"];
/// What else has a meaning when it changes on the way.
const ALLOWABLE: [&str; 18] = [
    "train.weight_decay",
    "train.adam_beta1",
    "train.adam_beta2",
    "train.adam_epsilon",
    "train.max_grad_norm",
    "train.loraplus_lr_ratio",
    "train.load_best_model_at_end",
    "train.early_stopping_patience",
    "train.early_stopping_threshold",
    "train.metric_for_best_model",
    "train.greater_is_better",
    "train.eval_strategy",
    "train.eval_steps",
    "train.logging_steps",
    "data.eval",
    "model.dtype",
    "model.device",
    "objective.precompute_ref_log_probs",
];
/// What never changes what is learnt.
const FREE: [&str; 11] = [
    "report",
    "train.output_dir",
    "train.overwrite_output_dir",
    "train.report_to",
    "train.logging_first_step",
    "train.save_strategy",
    "train.save_steps",
    "train.save_total_limit",
    "train.gradient_checkpointing",
    "train.eval_on_start",
    "model.revision",
];
/// What only matters where an evaluation decides about the end of the run or its weights.
const OF_EVALUATIONS: [&str; 7] = [
    "train.eval_strategy",
    "train.eval_steps",
    "train.logging_steps",
    "train.metric_for_best_model",
    "train.greater_is_better",
    "train.early_stopping_threshold",
    "data.eval",
];

fn is_among(keys: &[&str], key: &str) -> bool {
    keys.iter().any(|one| {
        key.strip_prefix(one)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Whether `--allow` may name `key`.
pub fn is_allowable(key: &str) -> bool {
    [&SCHEDULE[..], &BATCH, &ALLOWABLE]
        .iter()
        .any(|keys| is_among(keys, key))
}

/// The keys that `--allow` may name.
pub fn listing() -> String {
    let all = [&SCHEDULE[..], &BATCH, &ALLOWABLE].concat();
    methods::recipe::listing(all.into_iter())
}

/// Everything that `now` says otherwise than `began`.
pub(super) fn differences(began: &Record, now: &Record, progress: Progress) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let mut refuse = |key: &str, wanted: String, other: String| {
        found.push(Difference {
            key: key.to_owned(),
            wanted,
            found: other,
            is_exact: false,
            is_allowable: false,
        });
    };
    if began.base.tensors_sha256 != now.base.tensors_sha256 {
        refuse("model.name_or_path", began.base.shown(), now.base.shown());
    } else if began.base.config_sha256 != now.base.config_sha256 {
        let shown = |record: &Record| {
            let digest = record.base.config_sha256.as_deref().map_or("none".into(), short);
            format!("`{}` with the `config.json` {digest}", record.base.name_or_path)
        };
        refuse("model.name_or_path", shown(began), shown(now));
    }
    if began.tokenizer_sha256 != now.tokenizer_sha256 {
        let shown = |record: &Record| format!("the tokenizer {}", short(&record.tokenizer_sha256));
        refuse("model.name_or_path", shown(began), shown(now));
    }
    if began.template.sha256 != now.template.sha256 {
        let shown = |record: &Record| {
            let digest = record.template.sha256.as_deref();
            digest.map_or("no template".to_owned(), |digest| {
                format!("the template {}", short(digest))
            })
        };
        refuse("model.chat_template", shown(began), shown(now));
    }
    found.extend(of_recipes(began, now, progress)?);
    Ok(found)
}

fn of_recipes(began: &Record, now: &Record, progress: Progress) -> Result<Vec<Difference>> {
    let (old, new) = (flat(&began.recipe), flat(&now.recipe));
    let [old_train, new_train] = [&began.recipe, &now.recipe].map(|recipe| {
        let train = recipe["train"].clone();
        serde_json::from_value::<TrainConfig>(train).context("`train`")
    });
    let (old_train, new_train) = (old_train?, new_train?);
    let best_decides = [&old_train, &new_train]
        .iter()
        .any(|train| train.load_best_model_at_end || train.early_stopping_patience.is_some());
    let same_rates = has_same_rates(&old_train, &new_train, progress);
    let same_steps = old_train.documents_per_step() == new_train.documents_per_step();
    let mut found = Vec::new();
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let is_elsewhere = ["model.name_or_path", "model.chat_template"].contains(&key.as_str());
        let is_free = is_among(&FREE, key) || is_name_of_set(key) || !best_decides && is_among(&OF_EVALUATIONS, key);
        if is_elsewhere || is_free || old.get(key) == new.get(key) {
            continue;
        }
        let mut is_exact = is_among(&SCHEDULE, key) && same_rates;
        if key == "train.optim" {
            // Where states lie changes no number.
            is_exact = old_train.optim.is_8bit() == new_train.optim.is_8bit();
        }
        let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), |value| format!("`{}`", plain(value)));
        let (mut wanted, mut other) = (shown(old.get(key)), shown(new.get(key)));
        if let (Some(was), Some(is)) = (began.inputs.get(key), now.inputs.get(key)) {
            if was.sha256 == is.sha256 {
                continue;
            }
            wanted = format!("{wanted} with the contents {}", short(&was.sha256));
            other = format!("{other} with the contents {}", short(&is.sha256));
        }
        found.push(Difference {
            key: key.clone(),
            wanted,
            found: other,
            is_exact,
            is_allowable: is_among(&SCHEDULE, key) || is_among(&ALLOWABLE, key) || is_among(&BATCH, key) && same_steps,
        });
    }
    // The same path, and other contents.
    for (key, was) in &began.inputs {
        let Some(is) = now
            .inputs
            .get(key)
            .filter(|is| is.path == was.path && is.sha256 != was.sha256)
        else {
            continue;
        };
        let is_free = is_among(&FREE, key) || !best_decides && is_among(&OF_EVALUATIONS, key);
        if !is_free {
            let shown = |sha256: &str| format!("`{}` with the contents {}", was.path, short(sha256));
            found.push(Difference {
                key: key.clone(),
                wanted: shown(&was.sha256),
                found: shown(&is.sha256),
                is_exact: false,
                is_allowable: is_among(&ALLOWABLE, key),
            });
        }
    }
    Ok(found)
}

/// What a set's metrics are called.
fn is_name_of_set(key: &str) -> bool {
    key.starts_with("data.") && key.rsplit('.').next() == Some("name")
}

/// Whether every step so far had the learning rate that the new schedule gives it, and none too many was done.
fn has_same_rates(old: &TrainConfig, new: &TrainConfig, progress: Progress) -> bool {
    let total = |train: &TrainConfig| train.total_steps(progress.num_steps_per_epoch);
    let (Ok(before), Ok(after)) = (old.schedule(total(old)), new.schedule(total(new))) else {
        return false;
    };
    let rate = |train: &TrainConfig, schedule: &train::Schedule, step| train.learning_rate * schedule.factor(step);
    progress.done <= total(new) && (0..progress.done).all(|step| rate(old, &before, step) == rate(new, &after, step))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is said of differences that are refused.
pub(super) fn refusal(folder: &Path, refused: &[Difference], progress: Progress) -> String {
    let mut text = format!(
        "`{}` already holds a run of another recipe, which `--resume` would change",
        folder.display()
    );
    for one in refused {
        let _ = write!(
            text,
            "\n`{}`: wanted {}, as the run began, found {}",
            one.key, one.wanted, one.found
        );
    }
    let allowable: Vec<String> = refused
        .iter()
        .filter(|one| one.is_allowable)
        .map(|one| format!("`--allow {}`", one.key))
        .collect();
    if !allowable.is_empty() {
        let _ = write!(
            text,
            "\nhint: {} goes on with the new value from step {} on; the result is not that of a run that had it from the start",
            allowable.join(" "),
            progress.done
        );
    }
    if allowable.len() < refused.len() {
        let _ = write!(
            text,
            "\nhint: resume with the recipe that it began with (`{}`), or choose another `train.output_dir`",
            folder.join("recipe.toml").display()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use models::provenance::Base;
    use serde_json::json;

    use super::super::Template;
    use super::super::inputs::Input;
    use super::*;

    fn record() -> Record {
        let text =
            "learning_rate = 0.001\nmax_steps = 8\nper_device_train_batch_size = 4\nseed = 1\noutput_dir = \"out\"\n";
        let train: TrainConfig = toml::from_str(text).unwrap();
        Record {
            version: 1,
            program: "finetune".into(),
            begun: "then".into(),
            base: Base {
                name_or_path: "/a/model".into(),
                revision: None,
                tensors_sha256: "0".repeat(64),
                config_sha256: Some("1".repeat(64)),
            },
            tokenizer_sha256: "2".repeat(64),
            template: Template {
                sha256: Some("3".repeat(64)),
                rendered_at: None,
            },
            inputs: BTreeMap::from([(
                "data.train.0.path".to_owned(),
                Input {
                    path: "/a/rows.jsonl".into(),
                    sha256: "4".repeat(64),
                },
            )]),
            recipe: json!({
                "model": {"name_or_path": "/a/model", "dtype": "f32", "device": "cpu"},
                "surgery": [{"kind": "lora", "r": 4}],
                "objective": {"kind": "sft"},
                "data": {"train": [{"path": "/a/rows.jsonl", "name": "rows", "weight": 1.0}], "max_length": 64},
                "train": train,
                "report": {"samples": 3},
            }),
            machine: json!({}),
            chosen: serde_json::Map::new(),
            history: Vec::new(),
        }
    }

    /// The differences after `done` steps: each key, whether it is exact, whether it may be allowed.
    #[track_caller]
    fn check(change: impl Fn(&mut Record), done: usize, wanted: &[(&str, bool, bool)]) {
        let mut now = record();
        change(&mut now);
        let progress = Progress {
            done,
            num_steps_per_epoch: 2,
        };
        let found = differences(&record(), &now, progress).unwrap();
        let found: Vec<(&str, bool, bool)> = found
            .iter()
            .map(|one| (one.key.as_str(), one.is_exact, one.is_allowable))
            .collect();
        assert_eq!(found, wanted);
    }

    fn set(key: &'static str, value: Value) -> impl Fn(&mut Record) {
        move |record| {
            let pointer = format!("/{}", key.replace('.', "/"));
            let (table, name) = pointer.rsplit_once('/').unwrap();
            let table = record.recipe.pointer_mut(table).unwrap();
            match name.parse::<usize>() {
                Ok(idx) => table[idx] = value.clone(),
                Err(_) => table[name] = value.clone(),
            }
        }
    }

    #[test]
    fn what_would_change_the_result_is_found_and_what_would_not_is_not() {
        check(|_| (), 4, &[]);
        for (key, value) in [
            ("report.samples", json!(9)),
            ("train.save_steps", json!(1)),
            ("train.logging_steps", json!(1)),
            ("train.output_dir", json!("elsewhere")),
            ("train.gradient_checkpointing", json!(true)),
            ("train.eval_strategy", json!("epoch")),
            ("data.train.0.name", json!("others")),
        ] {
            check(set(key, value), 4, &[]);
        }
        for (key, value, allowable) in [
            ("train.seed", json!(2), false),
            ("train.optim", json!("adamw_8bit"), false),
            ("surgery.0.r", json!(8), false),
            ("objective.kind", json!("orpo"), false),
            ("data.max_length", json!(32), false),
            ("data.train.0.weight", json!(2.0), false),
            ("model.dtype", json!("bf16"), true),
            ("train.weight_decay", json!(0.1), true),
            ("train.max_steps", json!(16), true),
            ("train.learning_rate", json!(0.01), true),
            ("train.warmup_ratio", json!(0.5), true),
            ("train.per_device_train_batch_size", json!(2), false),
            ("train.early_stopping_patience", json!(2), true),
        ] {
            check(set(key, value), 4, &[(key, false, allowable)]);
        }
        check(
            set("train.optim", json!("paged_adamw")),
            4,
            &[("train.optim", true, false)],
        );
    }

    #[test]
    fn the_same_step_in_other_parts_may_be_allowed() {
        let halves = |record: &mut Record| {
            set("train.per_device_train_batch_size", json!(2))(record);
            set("train.gradient_accumulation_steps", json!(2))(record);
        };
        check(
            halves,
            4,
            &[
                ("train.gradient_accumulation_steps", false, true),
                ("train.per_device_train_batch_size", false, true),
            ],
        );
    }

    #[test]
    fn a_schedule_that_gave_the_same_rates_so_far_goes_on_exactly() {
        // Nothing was done yet.
        check(set("train.max_steps", json!(16)), 0, &[("train.max_steps", true, true)]);
        let constant = |record: &mut Record| set("train.lr_scheduler_type", json!("constant"))(record);
        let mut began = record();
        constant(&mut began);
        for (steps, exact) in [(16, true), (5, true), (4, true), (3, false)] {
            let mut now = began.clone();
            set("train.max_steps", json!(steps))(&mut now);
            let progress = Progress {
                done: 4,
                num_steps_per_epoch: 2,
            };
            let found = differences(&began, &now, progress).unwrap();
            assert_eq!(found[0].is_exact, exact, "{steps} steps");
        }
    }

    #[test]
    fn a_base_or_data_that_moved_is_the_same_and_one_that_changed_is_not() {
        let moved = |record: &mut Record| {
            record.base.name_or_path = "/b/model".into();
            set("model.name_or_path", json!("/b/model"))(record);
            set("data.train.0.path", json!("/b/rows.jsonl"))(record);
            record.inputs.get_mut("data.train.0.path").unwrap().path = "/b/rows.jsonl".into();
        };
        check(moved, 4, &[]);
        check(
            |record| record.base.tensors_sha256 = "f".repeat(64),
            4,
            &[("model.name_or_path", false, false)],
        );
        check(
            |record| record.base.config_sha256 = None,
            4,
            &[("model.name_or_path", false, false)],
        );
        check(
            |record| record.tokenizer_sha256.clear(),
            4,
            &[("model.name_or_path", false, false)],
        );
        check(
            |record| record.template.sha256 = None,
            4,
            &[("model.chat_template", false, false)],
        );
        let rows = |record: &mut Record| record.inputs.get_mut("data.train.0.path").unwrap().sha256 = "f".repeat(64);
        check(rows, 4, &[("data.train.0.path", false, false)]);
        let both = |record: &mut Record| {
            moved(record);
            rows(record);
        };
        check(both, 4, &[("data.train.0.path", false, false)]);
    }

    #[test]
    fn evaluations_matter_where_they_decide() {
        let mut began = record();
        set("train.load_best_model_at_end", json!(true))(&mut began);
        let mut now = began.clone();
        set("train.eval_steps", json!(1))(&mut now);
        let progress = Progress {
            done: 4,
            num_steps_per_epoch: 2,
        };
        let found = differences(&began, &now, progress).unwrap();
        assert_eq!((found.len(), found[0].key.as_str()), (1, "train.eval_steps"));
    }
}
