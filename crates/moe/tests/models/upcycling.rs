//! From a dense model to a mixture: the same function at step 0, unless it was asked to differ.

use checkpoint::{ModelDir, SaveOptions};
use decoder::Decoder;
use golden::assert_close;
use kernels::Activation;
use moe::{Balance, Part, UpcycleConfig};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, ModulePath, Parameters, Role};

use crate::load;

fn dense(name: &str) -> Decoder {
    let dir = ModelDir::open(&golden::vectors_dir().join("families").join(name)).expect("vectors open");
    Decoder::load(&dir, Device::Cpu, Kind::Float).expect("loaded")
}

fn upcycled(name: &str, config: &UpcycleConfig) -> decoder::Result<Decoder> {
    let model = dense(name);
    let (e, k) = (config.num_local_experts as i64, config.num_experts_per_tok as i64);
    let sparse = model.config().clone().with_experts(e, k)?;
    model.replace_feed_forwards(sparse, &mut |from, inner| {
        let at = ModulePath::from(from.as_str().replace(".mlp", ".block_sparse_moe"));
        let layer = config.mixture((from, &at), inner, Activation::Silu, Balance::default());
        match layer {
            Ok(layer) => Ok(Box::new(layer)),
            Err(error) => Err(tensor_core::Error::Surgery {
                at: from.clone(),
                source: Box::new(error),
            }),
        }
    })
}

fn logits(model: &Decoder) -> Tensor {
    let tokens = Tensor::from_slice(&[5i64, 40, 33, 21, 50, 7, 44, 12, 3]);
    model.logits(&tokens, &Documents::new(&[5, 4]))
}

#[test]
fn an_upcycled_model_is_its_parent_and_is_written_as_a_mixtral() {
    for name in ["llama-tied", "llama-untied", "mistral-window"] {
        for (e, k) in [(4, 2), (3, 3), (1, 1)] {
            let config = UpcycleConfig {
                num_local_experts: e,
                num_experts_per_tok: k,
                ..UpcycleConfig::default()
            };
            let model = upcycled(name, &config).expect("upcycled");
            // Weights sum to one only up to rounding; logits are of size 30.
            assert_close(name, &logits(&model), &logits(&dense(name)), 1e-5, 3e-5);
            let folder = tempfile::tempdir().expect("a temporary folder");
            let target = folder.path().join("model");
            model.save(&target, &SaveOptions::default()).expect("written");
            let again = load(&target, Balance::default());
            assert_eq!(again.config().family.name(), "Mixtral");
            assert_eq!(logits(&again), logits(&model), "{name}");
        }
    }
}

#[test]
fn noise_sets_experts_apart_by_the_share_asked_for() {
    let config = UpcycleConfig {
        noise_scale: 0.1,
        ..UpcycleConfig::default()
    };
    assert!(!config.is_exact());
    let weight = Tensor::arange(60 * 40, (Kind::Float, Device::Cpu)).sin().view([60, 40]) * 3.0;
    let at = |idx: usize| ModulePath::from(format!("model.layers.0.block_sparse_moe.experts.{idx}"));
    let noise = |idx, part| config.matrix(&at(idx), part, &weight) - &weight;
    let share = |idx, part| noise(idx, part).std(false).double_value(&[]) / weight.std(false).double_value(&[]);
    // The deviation of 2400 numbers is known to a few per cent.
    assert!((share(0, Part::Gate) - 0.1).abs() < 0.005, "{}", share(0, Part::Gate));
    assert_ne!(noise(0, Part::Gate), noise(1, Part::Gate));
    assert_ne!(noise(0, Part::Gate), noise(0, Part::Up));
    assert_eq!(noise(0, Part::Gate), noise(0, Part::Gate));
}

#[test]
fn the_share_of_neurons_drawn_anew_is_the_same_in_all_matrices_of_an_expert() {
    let config = UpcycleConfig {
        reinitialise: 0.3,
        ..UpcycleConfig::default()
    };
    let inner = 50;
    let gate = Tensor::arange(inner * 16, (Kind::Float, Device::Cpu))
        .sin()
        .view([inner, 16])
        + 2.0;
    let down = gate.tr().contiguous();
    let changed = |idx: usize, part: Part| -> Vec<bool> {
        let at = ModulePath::from(format!("model.layers.0.block_sparse_moe.experts.{idx}"));
        let weight = if part == Part::Down { &down } else { &gate };
        let differs = config.matrix(&at, part, weight).ne_tensor(weight);
        let other = i64::from(part != Part::Down);
        let rows = differs.to_kind(Kind::Float).mean_dim(&[other][..], false, Kind::Float);
        let shares: Vec<f32> = rows.try_into().expect("flat");
        assert!(
            shares.iter().all(|share| *share == 0.0 || *share == 1.0),
            "whole neurons"
        );
        shares.iter().map(|share| *share == 1.0).collect()
    };
    let chosen = changed(0, Part::Gate);
    assert_eq!(chosen.iter().filter(|is_new| **is_new).count(), 15);
    assert_eq!(chosen, changed(0, Part::Up));
    assert_eq!(chosen, changed(0, Part::Down));
    assert_ne!(chosen, changed(1, Part::Gate));
    // New numbers have the mean of the old ones.
    let at = ModulePath::from("model.layers.0.block_sparse_moe.experts.0");
    let mean = config
        .matrix(&at, Part::Gate, &gate)
        .mean(Kind::Float)
        .double_value(&[]);
    assert!((mean - 2.0).abs() < 0.05, "{mean}");
}

#[test]
fn routers_are_drawn_anew_and_have_their_role() {
    let model = upcycled("llama-tied", &UpcycleConfig::default()).expect("upcycled");
    let mut routers = Vec::new();
    model.visit(&ModulePath::root(), &mut |at, param| {
        if param.role() == Role::Router {
            assert_eq!(param.value().size(), [8, 32], "{at}");
            let deviation = param.value().std(true).double_value(&[]);
            assert!((deviation - 0.02).abs() < 0.003, "{deviation}");
            routers.push(param.value().copy());
        }
    });
    assert_eq!(routers.len(), 2);
    assert_ne!(routers[0], routers[1]);
}

#[test]
fn what_cannot_be_upcycled_is_refused() {
    let refused = |name: &str, config: UpcycleConfig| upcycled(name, &config).unwrap_err().to_string();
    let error = refused("llama-biases", UpcycleConfig::default());
    assert!(error.contains("biases"), "{error}");
    let error = refused("gemma3", UpcycleConfig::default());
    assert!(
        error.contains("a Gemma3 with experts") && error.contains("Llama and Mistral"),
        "{error}"
    );
    for (option, config) in [
        (
            "num_experts_per_tok",
            UpcycleConfig {
                num_experts_per_tok: 9,
                ..UpcycleConfig::default()
            },
        ),
        (
            "noise_scale",
            UpcycleConfig {
                noise_scale: -1.0,
                ..UpcycleConfig::default()
            },
        ),
        (
            "reinitialise",
            UpcycleConfig {
                reinitialise: 1.5,
                ..UpcycleConfig::default()
            },
        ),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(
            error.contains(&format!("`{option}`")) && error.contains("hint: "),
            "{error}"
        );
    }
}
