//! A resumed run equals an uninterrupted one bit for bit.

use std::path::Path;
use std::sync::atomic::Ordering;

use train::{Outcome, Start, TIMING, TrainConfig};

use crate::tiny::{Formula, Tiny, parse, run, run_new};

/// Metrics without what no two runs share.
pub(crate) fn metrics(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut entry: serde_json::Value = serde_json::from_str(line).unwrap();
            for name in TIMING {
                entry.as_object_mut().unwrap().remove(name);
            }
            entry
        })
        .collect()
}

const RECIPE: &str = "num_train_epochs = 2.0\nlr_scheduler_type = \"cosine\"\nwarmup_steps = 2\nweight_decay = 0.1\n\
    eval_strategy = \"steps\"\neval_steps = 3\nsave_steps = 5\nearly_stopping_patience = 9";

#[test]
fn a_run_stopped_anywhere_and_resumed_equals_one_that_never_stopped() {
    // Log entries that sum over steps on both sides of the interruption.
    let config = TrainConfig {
        logging_steps: 4,
        logging_first_step: false,
        ..parse(RECIPE)
    };
    let whole = tempfile::tempdir().unwrap();
    let model = Tiny::new();
    run_new(&model, &Formula::new(), &config, whole.path()).unwrap();
    for stop_at in [3, 4, 6, 8, 9] {
        let folder = tempfile::tempdir().unwrap();
        let stopped = Tiny::new();
        let report = run(
            &stopped,
            &Formula::new(),
            &config,
            (folder.path(), Start::New),
            &mut |entry, stop| {
                stop.fetch_or(entry.step == stop_at, Ordering::Relaxed);
            },
        )
        .unwrap();
        let Outcome::Interrupted { step, checkpoint } = &report.outcome else {
            panic!("{:?}", report.outcome)
        };
        assert_eq!(*step, stop_at);
        assert!(checkpoint.join("state.json").exists());
        let said = report.outcome.to_string();
        assert!(
            said.contains("--resume") && said.contains(&format!("checkpoint-{stop_at}")),
            "{said}"
        );

        let resumed = Tiny::new();
        let report = run(
            &resumed,
            &Formula::new(),
            &config,
            (folder.path(), Start::Resume),
            &mut |_, _| {},
        )
        .unwrap();
        assert_eq!(report.outcome, Outcome::Completed);
        assert_eq!(resumed.values(), model.values(), "stopped at {stop_at}");
        assert_eq!(metrics(folder.path()), metrics(whole.path()), "stopped at {stop_at}");
        for name in ["optimizer.safetensors", "masters.safetensors", "model.txt"] {
            let read = |root: &Path| std::fs::read(root.join("checkpoint-12").join(name)).unwrap();
            assert!(
                read(folder.path()) == read(whole.path()),
                "{name}, stopped at {stop_at}"
            );
        }
    }
}

#[test]
fn metrics_past_the_checkpoint_are_forgotten() {
    let config = parse(RECIPE);
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::new();
    run_new(&model, &Formula::new(), &config, folder.path()).unwrap();
    let whole = metrics(folder.path());
    // As if the process had died after step 9 and lost its later checkpoints.
    for step in [10, 12] {
        std::fs::remove_dir_all(folder.path().join(format!("checkpoint-{step}"))).unwrap();
    }
    let resumed = Tiny::new();
    run(
        &resumed,
        &Formula::new(),
        &config,
        (folder.path(), Start::Resume),
        &mut |_, _| {},
    )
    .unwrap();
    assert_eq!(metrics(folder.path()), whole);
    assert_eq!(resumed.values(), model.values());
}

#[test]
fn resuming_a_finished_run_changes_nothing() {
    let config = parse("max_steps = 3");
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::new();
    run_new(&model, &Formula::new(), &config, folder.path()).unwrap();
    let before = metrics(folder.path());
    let again = Tiny::new();
    let report = run(
        &again,
        &Formula::new(),
        &config,
        (folder.path(), Start::Resume),
        &mut |_, _| {},
    )
    .unwrap();
    assert_eq!((report.num_steps, report.outcome), (3, Outcome::Completed));
    assert_eq!((metrics(folder.path()), again.values()), (before, model.values()));
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run_new(&Tiny::new(), &Formula::new(), &parse("max_steps = 3"), folder.path()).unwrap();
    for (model, config, needles) in [
        (Tiny::new(), parse("max_steps = 6\nseed = 7"), ["seed 7", "42"]),
        (
            Tiny::new().with_unused(),
            parse("max_steps = 6"),
            ["masters.safetensors", "6 tensors"],
        ),
    ] {
        let error = run(
            &model,
            &Formula::new(),
            &config,
            (folder.path(), Start::Resume),
            &mut |_, _| {},
        )
        .unwrap_err();
        let error = error.to_string();
        assert!(needles.iter().all(|needle| error.contains(needle)), "{error}");
    }
}
