//! Which parts matter: against gates and hidden states in f64.

use checkpoint::ModelDir;
use decoder::Decoder;
use golden::{Vectors, assert_close, vectors_dir};
use prune::{
    Calibration, Importance, Shape, Units, angular_distances, block_influence, least_influential, least_run, units,
};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, ModulePath, ProjectionSurgeon};

fn model() -> Decoder {
    let dir = ModelDir::open(&vectors_dir().join("families/llama-untied")).unwrap();
    Decoder::load(&dir, Device::Cpu, Kind::Float).unwrap()
}

fn shape(model: &Decoder) -> Shape {
    let config = model.config();
    Shape {
        num_layers: config.num_hidden_layers,
        num_heads: config.num_attention_heads as usize,
        num_kv_heads: config.num_key_value_heads as usize,
        head_dim: config.head_dim as usize,
        intermediate_size: config.intermediate_size as usize,
    }
}

/// The vectors' documents in two rows.
fn rows(golden: &Vectors) -> Vec<(Tensor, Documents)> {
    let lengths: Vec<usize> = golden
        .integers("lengths")
        .iter()
        .map(|&length| length as usize)
        .collect();
    let tokens = golden.get("tokens");
    let (first, rest) = lengths.split_at(2);
    let cut: i64 = first.iter().map(|&length| length as i64).sum();
    let parts = tokens.split_with_sizes([cut, tokens.size()[0] - cut], 0);
    parts
        .into_iter()
        .zip([Documents::new(first), Documents::new(rest)])
        .collect()
}

fn matrix(rows: &[Vec<f64>]) -> Tensor {
    Tensor::stack(&rows.iter().map(|row| Tensor::from_slice(row)).collect::<Vec<_>>(), 0)
}

#[test]
fn influence_and_angles_are_those_of_the_hidden_states() {
    let golden = Vectors::open("prune/parts");
    let model = model();
    let calibration = || Calibration::new(&model, rows(&golden));
    let influence = block_influence(&model, calibration());
    assert_close(
        "influence",
        &Tensor::from_slice(&influence),
        &golden.get("influence"),
        1e-4,
        1e-6,
    );
    let distances = angular_distances(&model, calibration(), 1).unwrap();
    assert_close(
        "angular",
        &Tensor::from_slice(&distances),
        &golden.get("angular"),
        1e-4,
        1e-6,
    );
    for length in [0, 2] {
        let error = angular_distances(&model, calibration(), length)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`num_hidden_layers`"), "{error}");
    }
}

#[test]
fn the_least_go() {
    assert_eq!(least_influential(&[0.9, 0.2, 0.05, 0.3, 0.1, 0.8], 3), [1, 2, 4]);
    assert_eq!(least_run(&[0.5, 0.2, 0.1, 0.4], 3), [2, 3, 4]);
}

#[test]
fn units_are_weighed_by_activations_and_by_gates() {
    let golden = Vectors::open("prune/parts");
    for (name, importance) in [("activation", Importance::Activation), ("taylor", Importance::Taylor)] {
        let (before, model) = (golden::laws::state(&model()), model());
        let shape = shape(&model);
        let mut operate = |model: Decoder, surgeon: &mut ProjectionSurgeon| Ok(model.map_projections(surgeon)?);
        let mut finished = 0;
        let (model, found): (Decoder, Units) =
            units(model, shape, importance, &rows(&golden), &mut operate, &mut |_| {
                finished += 1;
            })
            .unwrap();
        assert_eq!(finished, 2);
        let found = found.checked().unwrap();
        // f32 on the way up and back against f64.
        assert_close(
            name,
            &matrix(&found.groups),
            &golden.get(&format!("groups.{name}")),
            2e-3,
            1e-5,
        );
        assert_close(
            name,
            &matrix(&found.channels),
            &golden.get(&format!("channels.{name}")),
            2e-3,
            1e-4,
        );
        for ((path, before), (_, after)) in before.iter().zip(golden::laws::state(&model)) {
            assert!(before.equal(&after), "{path} changed by being looked at");
        }
    }
}

#[test]
fn channels_of_a_mixture_are_not_weighed() {
    let golden = Vectors::open("prune/parts");
    // The dense model under the names that two experts have in Qwen's mixtures and in Mixtral's.
    for (names, needles) in [
        (
            ["mlp.experts.0.down_proj", "mlp.experts.1.down_proj"],
            ["layer 0", "one `down_proj`", "found 2", "mlp.experts.1.down_proj"],
        ),
        (
            ["block_sparse_moe.experts.0.w2", "block_sparse_moe.experts.1.w2"],
            ["layer 0", "one `down_proj`", "none of that name", "mixture of experts"],
        ),
    ] {
        let mut operate = |model: Decoder, surgeon: &mut ProjectionSurgeon| {
            Ok(model.map_projections(&mut |at, projection| {
                let Some(layer) = at.as_str().strip_suffix("mlp.down_proj") else {
                    return surgeon(at, projection);
                };
                names.iter().try_fold(projection, |projection, name| {
                    surgeon(&ModulePath::from(format!("{layer}{name}")), projection)
                })
            })?)
        };
        let (model, rows) = (model(), rows(&golden));
        let shape = shape(&model);
        let error = units(model, shape, Importance::Activation, &rows, &mut operate, &mut |_| {})
            .err()
            .unwrap()
            .to_string();
        assert!(needles.iter().all(|needle| error.contains(needle)), "{error}");
    }
    let mut other = shape(&model());
    other.intermediate_size += 1;
    let mut operate = |model: Decoder, surgeon: &mut ProjectionSurgeon| Ok(model.map_projections(surgeon)?);
    let error = units(
        model(),
        other,
        Importance::Activation,
        &rows(&golden),
        &mut operate,
        &mut |_| {},
    );
    let error = error.err().unwrap().to_string();
    assert!(error.contains("down_proj` with 57 inputs"), "{error}");
}

#[test]
fn importance_of_other_units_cuts_nothing() {
    let shape = shape(&model());
    let scores = |layers: usize, count: usize| vec![vec![1.0; count]; layers];
    let cut = || prune::Cut::nothing(shape);
    assert!(
        cut()
            .with_channels(8, &scores(shape.num_layers, shape.intermediate_size))
            .is_ok()
    );
    for wrong in [
        scores(shape.num_layers, 8),
        scores(shape.num_layers - 1, shape.intermediate_size),
        scores(0, 0),
    ] {
        let error = cut().with_channels(8, &wrong).unwrap_err().to_string();
        assert!(error.contains("importance"), "{error}");
    }
}
