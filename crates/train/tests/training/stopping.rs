//! What ends a run before its last step: lost numbers, lost patience, missing gradients.

use train::{Error, Outcome, TrainConfig};

use crate::tiny::{Formula, Tiny, parse, run_new};

#[test]
fn a_loss_that_is_no_number_names_step_row_and_block() {
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::new();
    let batches = Formula {
        poisoned_step: Some(4),
        ..Formula::new()
    };
    let error = run_new(&model, &batches, &parse("save_steps = 2"), folder.path()).unwrap_err();
    let text = error.to_string();
    let Error::LossNotFinite { step: 5, row: 2, .. } = error else {
        panic!("{text}")
    };
    for needle in [
        "step 5, row 2",
        "block 1 (of 0 to 1)",
        "checkpoint-4` is whole",
        "--resume",
    ] {
        assert!(text.contains(needle), "{text}");
    }
    // The step that failed changed nothing.
    let saved = std::fs::read_to_string(folder.path().join("checkpoint-4/model.txt")).unwrap();
    let now: Vec<String> = model
        .values()
        .iter()
        .map(|(path, values, _)| format!("{path} {values:?}\n"))
        .collect();
    assert_eq!(saved, now.concat());
}

#[test]
fn a_run_without_improvement_stops_and_keeps_its_best() {
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::new();
    // A rate far too high: the loss soon grows.
    let config = parse(
        "lr_scheduler_type = \"constant\"\nmax_steps = 60\neval_strategy = \"steps\"\n\
         early_stopping_patience = 3\nload_best_model_at_end = true\nsave_total_limit = 1",
    );
    let config = TrainConfig {
        learning_rate: 0.6,
        ..config
    };
    let report = run_new(&model, &Formula::new(), &config, folder.path()).unwrap();
    let Outcome::StoppedEarly { step } = report.outcome else {
        panic!("{:?}", report.outcome)
    };
    let losses: Vec<(usize, f64)> = report
        .history
        .iter()
        .filter_map(|entry| Some((entry.step, entry.number("eval/loss")?)))
        .collect();
    let best = losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let kept = report.best.unwrap();
    assert_eq!(
        (kept.step, kept.value, kept.metric.as_str()),
        (best.0, best.1, "eval/loss")
    );
    assert_eq!(step, best.0 + 3);
    assert!(step < 60);
    // The run ends with the best weights, and their checkpoint outlived the limit.
    assert_eq!(crate::tiny::evaluate(&model), best.1);
    assert!(folder.path().join(format!("checkpoint-{}", best.0)).exists());
    let published = std::fs::read(folder.path().join("model.txt")).unwrap();
    assert_eq!(
        published,
        std::fs::read(folder.path().join(format!("checkpoint-{}/model.txt", best.0))).unwrap()
    );
}

#[test]
fn a_parameter_that_no_gradient_reaches_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = run_new(&Tiny::new().with_unused(), &Formula::new(), &parse(""), folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("after step 2") && error.contains("1 of 6") && error.contains("`unused`"),
        "{error}"
    );
}

#[test]
fn a_model_in_which_nothing_trains_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = run_new(&Tiny::new().frozen(), &Formula::new(), &parse(""), folder.path()).unwrap_err();
    assert!(matches!(error, Error::NothingTrains), "{error}");
}

#[test]
fn an_unknown_metric_is_refused_with_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let config = parse("eval_strategy = \"epoch\"\nmetric_for_best_model = \"bleu\"");
    let error = run_new(&Tiny::new(), &Formula::new(), &config, folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`eval/bleu`") && error.contains("`eval/loss`"),
        "{error}"
    );
}
