//! A step of k rows equals a step of one; only what trains moves.

use crate::tiny::{Formula, Tiny, parse, run_new};

/// f32 sums in another order, over six steps of AdamW.
const TOLERANCE: f64 = 1e-6;

fn losses(documents_per_row: usize, checkpointing: &str) -> (Vec<f64>, Vec<f64>, Vec<Vec<f32>>) {
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::new().without_dropout();
    let config = parse(&format!("max_steps = 6\ngradient_checkpointing = {checkpointing}"));
    let batches = Formula {
        documents_per_row,
        ..Formula::new()
    };
    let report = run_new(&model, &batches, &config, folder.path()).unwrap();
    let column = |name| report.history.iter().map(|entry| entry.number(name).unwrap()).collect();
    let values = model.values().into_iter().map(|(_, values, _)| values).collect();
    (column("loss"), column("grad_norm"), values)
}

#[test]
fn accumulated_rows_equal_one_large_row() {
    let (loss, norm, values) = losses(4, "false");
    for documents_per_row in [1, 2, 3] {
        let (other_loss, other_norm, other_values) = losses(documents_per_row, "false");
        for (a, b) in loss.iter().zip(&other_loss).chain(norm.iter().zip(&other_norm)) {
            assert!((a - b).abs() <= TOLERANCE * a.abs(), "{documents_per_row}: {a} {b}");
        }
        for (a, b) in values.concat().iter().zip(other_values.concat()) {
            assert!(
                f64::from((a - b).abs()) <= TOLERANCE * 10.0,
                "{documents_per_row}: {a} {b}"
            );
        }
    }
    assert!(loss[5] < loss[0]);
}

#[test]
fn recomputing_blocks_changes_no_bit() {
    assert_eq!(losses(2, "true"), losses(2, "false"));
}

#[test]
fn what_is_frozen_stays_and_has_no_state() {
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::new();
    let before = model.values();
    run_new(&model, &Formula::new(), &parse("max_steps = 3"), folder.path()).unwrap();
    for ((path, before, trains), (_, after, _)) in before.iter().zip(model.values()) {
        assert_eq!(*before != after, *trains, "{path}");
    }
    let bytes = std::fs::read(folder.path().join("checkpoint-3/optimizer.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    let mut wanted: Vec<String> = before
        .iter()
        .filter(|(_, _, trains)| *trains)
        .flat_map(|(path, ..)| [format!("{path}.exp_avg"), format!("{path}.exp_avg_sq")])
        .collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
}
