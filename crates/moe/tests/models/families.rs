//! Every family of experts against Transformers: logits, gradients, both generations of `config.json`, writing.

use std::fs;

use checkpoint::{ModelDir, SaveOptions};
use decoder::{Decoder, loss};
use golden::{Vectors, assert_close};
use moe::Balance;
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel, Loss, ModelPass, ModulePath, Parameters,
    Role,
};

use crate::{MODELS, folder, load};

/// Two f32 programs that sum in another order, through at most three layers.
const RELATIVE: f64 = 1e-5;
/// The same, for logits of up to about 4.
const ABSOLUTE: f64 = 2e-5;

fn golden_of(name: &str) -> Vectors {
    Vectors::open_file(&folder(name).join("golden.safetensors"))
}

fn check_logits(model: &Decoder, golden: &Vectors, name: &str) {
    for n in 0..3 {
        let (tokens, wanted) = (golden.get(&format!("tokens.{n}")), golden.get(&format!("logits.{n}")));
        let ours = model.logits(&tokens, &Documents::new(&[tokens.size()[0] as usize]));
        assert_close(&format!("{name}, document {n}"), &ours, &wanted, RELATIVE, ABSOLUTE);
    }
}

#[test]
fn logits_equal_transformers_under_both_generations_of_config() {
    for name in MODELS {
        let golden = golden_of(name);
        check_logits(&load(&folder(name), Balance::default()), &golden, name);
        let copy = tempfile::tempdir().expect("a temporary folder");
        fs::copy(
            folder(name).join("model.safetensors"),
            copy.path().join("model.safetensors"),
        )
        .expect("copied");
        fs::copy(folder(name).join("config.v4.json"), copy.path().join("config.json")).expect("copied");
        check_logits(&load(copy.path(), Balance::default()), &golden, &format!("{name} (v4)"));
    }
}

#[test]
fn packed_documents_equal_each_document_alone() {
    for name in MODELS {
        let golden = golden_of(name);
        let parts: Vec<Tensor> = (0..3).map(|n| golden.get(&format!("tokens.{n}"))).collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.size()[0] as usize).collect();
        let model = load(&folder(name), Balance::default());
        let packed = model.logits(&Tensor::cat(&parts, 0), &Documents::new(&lengths));
        let wanted: Vec<Tensor> = (0..3).map(|n| golden.get(&format!("logits.{n}"))).collect();
        assert_close(name, &packed, &Tensor::cat(&wanted, 0), RELATIVE, ABSOLUTE);
    }
}

/// The summed next-token loss over three documents in one row.
fn language_loss(policy: &ModelPass, golden: &Vectors) -> Tensor {
    let parts: Vec<Tensor> = (0..3).map(|n| golden.get(&format!("tokens.{n}"))).collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.size()[0] as usize).collect();
    let next: Vec<Tensor> = parts
        .iter()
        .map(|part| {
            let end = Tensor::from_slice(&[loss::IGNORED]);
            Tensor::cat(&[part.narrow(0, 1, part.size()[0] - 1), end], 0)
        })
        .collect();
    let documents = Documents::new(&lengths);
    loss::language_model_loss(policy, &Tensor::cat(&parts, 0), &Tensor::cat(&next, 0), &documents).expect("shapes fit")
}

/// Gradients of the loss and of what layers add to it, against the vectors under `prefix`.
fn check_gradients(name: &str, prefix: &str, balance: Balance, treatment: Checkpointing) {
    let golden = golden_of(name);
    let wanted = golden.under(prefix);
    assert!(!wanted.is_empty(), "{name}: {prefix}");
    let model = load(&folder(name), balance)
        .train_where(|_, _| true)
        .expect("all train");
    let plan = CheckpointingPolicy::uniform(treatment, model.num_blocks());
    let policy = ModelPass::train(&model, &plan, DropoutKey(0));
    let sum = language_loss(&policy, &golden);
    assert_close(name, &sum, &golden.get("loss"), 1e-5, 0.0);
    if balance != Balance::default() {
        let (side, layers) = (policy.side_total() / 7.0, policy.tallies().len());
        assert!((side - golden.number("balance")).abs() < 1e-4, "{name}: {side}");
        assert_eq!(layers, 2, "{name}");
        for (at, counts) in policy.tallies() {
            assert_eq!(
                counts.iter().sum::<f64>(),
                60.0,
                "{at}: 30 tokens have two experts each"
            );
        }
    }
    policy.backward(&Loss::of(sum), 1.0, 1.0).expect("a backward pass");
    let mut found = 0;
    model.visit(&ModulePath::root(), &mut |at, param| {
        let Some(wanted) = wanted.get(at.as_str()) else { return };
        found += 1;
        let largest = wanted.abs().max().double_value(&[]);
        let ours = param.value().grad();
        assert_close(&format!("{name} {at}"), &ours, wanted, 1e-4, 1e-5 * largest.max(1.0));
    });
    assert_eq!(found, wanted.len(), "{name}");
}

#[test]
fn gradients_of_full_fine_tuning_equal_transformers() {
    for name in ["mixtral", "qwen2-moe"] {
        for treatment in [Checkpointing::Keep, Checkpointing::Recompute] {
            check_gradients(name, "grad.", Balance::default(), treatment);
        }
    }
}

#[test]
fn the_balance_loss_reaches_the_routers_as_in_transformers() {
    // Seven times the mean over both sparse layers.
    let balance = Balance { aux: 3.5, z: 0.0 };
    for name in ["mixtral", "qwen2-moe"] {
        for treatment in [Checkpointing::Keep, Checkpointing::Recompute] {
            check_gradients(name, "balanced.grad.", balance, treatment);
        }
    }
}

#[test]
fn a_model_that_is_written_is_the_one_that_was_read() {
    for name in MODELS {
        let model = load(&folder(name), Balance::default());
        let written = tempfile::tempdir().expect("a temporary folder");
        let target = written.path().join("model");
        model.save(&target, &SaveOptions::default()).expect("written");
        let (ours, theirs) = (Vectors::open_file(&target.join("model.safetensors")), {
            Vectors::open_file(&folder(name).join("model.safetensors"))
        });
        assert!(ours.names().eq(theirs.names()), "{name}");
        for tensor in theirs.names() {
            assert_eq!(ours.get(tensor), theirs.get(tensor), "{name}: {tensor}");
        }
        check_logits(&load(&target, Balance::default()), &golden_of(name), name);
        assert_eq!(
            ModelDir::open(&target).expect("opens").config().raw(),
            model.config().raw(),
            "{name}"
        );
    }
}

#[test]
fn routers_have_their_role_and_are_no_projections() {
    for name in MODELS {
        let model = load(&folder(name), Balance::default());
        let mut routers = 0;
        model.visit(&ModulePath::root(), &mut |at, param| {
            let is_router = at.as_str().ends_with("gate.weight");
            assert_eq!(param.role() == Role::Router, is_router, "{at}");
            routers += usize::from(is_router);
        });
        assert!(routers > 0, "{name}");
        let mut met = Vec::new();
        let model = model.map_projections(&mut |at, projection| {
            met.push(at.clone());
            Ok(projection)
        });
        let paths: Vec<ModulePath> = model
            .expect("nothing refused")
            .projection_paths()
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert_eq!(met, paths, "{name}");
        assert!(met.iter().any(|at| at.as_str().contains(".experts.3.")), "{name}");
    }
}

#[test]
fn a_dense_loader_says_what_it_misses() {
    let dir = ModelDir::open(&folder("mixtral")).expect("vectors open");
    let error = Decoder::load(&dir, Device::Cpu, Kind::Float).unwrap_err().to_string();
    assert!(
        error.contains("a Mixtral of 5 experts a layer") && error.contains("load_mixture"),
        "{error}"
    );
}
