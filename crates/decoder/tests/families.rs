//! Every family against Transformers: logits, gradients of full fine-tuning, both generations of `config.json`.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::ModelDir;
use decoder::{Decoder, HeadKind, loss};
use golden::Vectors;
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel, Loss, ModelPass, ModulePath, Parameters,
};

/// Two f32 programs that sum in another order, through at most three layers.
const RELATIVE: f64 = 1e-5;
/// The same, for logits of up to about 30.
const ABSOLUTE: f64 = 3e-5;

fn families() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(golden::vectors_dir().join("families"))
        .expect("vectors are there")
        .map(|entry| entry.expect("vectors are readable").path())
        .collect();
    found.sort();
    assert!(found.len() >= 20, "{}", found.len());
    found
}

fn load(folder: &Path) -> Decoder {
    let dir = ModelDir::open(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    Decoder::load(&dir, Device::Cpu, Kind::Float).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

fn outputs(model: &Decoder, tokens: &Tensor, documents: &Documents) -> Tensor {
    match model.head_kind() {
        HeadKind::LanguageModel => model.logits(tokens, documents),
        _ => model.classify(tokens, documents),
    }
}

fn check_logits(model: &Decoder, golden: &Vectors, name: &str) {
    for n in 0..3 {
        let (tokens, wanted) = (golden.get(&format!("tokens.{n}")), golden.get(&format!("logits.{n}")));
        let documents = Documents::new(&[tokens.size()[0] as usize]);
        let ours = outputs(model, &tokens, &documents).view_as(&wanted);
        golden::assert_close(&format!("{name}, document {n}"), &ours, &wanted, RELATIVE, ABSOLUTE);
    }
}

fn name(folder: &Path) -> String {
    folder
        .file_name()
        .expect("a folder has a name")
        .to_string_lossy()
        .into_owned()
}

#[test]
fn logits_equal_transformers_for_every_family() {
    for folder in families() {
        let golden = Vectors::open_file(&folder.join("golden.safetensors"));
        check_logits(&load(&folder), &golden, &name(&folder));
    }
}

#[test]
fn the_older_config_means_the_same() {
    for folder in families() {
        let copy = tempfile::tempdir().expect("a temporary folder");
        for entry in fs::read_dir(&folder).expect("vectors are there") {
            let path = entry.expect("vectors are readable").path();
            fs::copy(&path, copy.path().join(path.file_name().expect("a file has a name"))).expect("copied");
        }
        fs::rename(copy.path().join("config.v4.json"), copy.path().join("config.json")).expect("renamed");
        let golden = Vectors::open_file(&folder.join("golden.safetensors"));
        check_logits(&load(copy.path()), &golden, &format!("{} (v4)", name(&folder)));
    }
}

#[test]
fn packed_documents_equal_each_document_alone() {
    for folder in families() {
        let golden = Vectors::open_file(&folder.join("golden.safetensors"));
        let model = load(&folder);
        let parts: Vec<Tensor> = (0..3).map(|n| golden.get(&format!("tokens.{n}"))).collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.size()[0] as usize).collect();
        let packed = outputs(&model, &Tensor::cat(&parts, 0), &Documents::new(&lengths));
        let wanted: Vec<Tensor> = (0..3).map(|n| golden.get(&format!("logits.{n}"))).collect();
        let rank = wanted[0].dim();
        let wanted = if rank == 1 {
            Tensor::stack(&wanted, 0)
        } else {
            Tensor::cat(&wanted, 0)
        };
        golden::assert_close(&name(&folder), &packed, &wanted, RELATIVE, ABSOLUTE);
    }
}

/// The loss that the vectors were made with, over three documents in one row.
fn golden_loss(policy: &ModelPass, model: &Decoder, golden: &Vectors) -> Tensor {
    let parts: Vec<Tensor> = (0..3).map(|n| golden.get(&format!("tokens.{n}"))).collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.size()[0] as usize).collect();
    let (tokens, documents) = (Tensor::cat(&parts, 0), Documents::new(&lengths));
    match model.head_kind() {
        HeadKind::LanguageModel => {
            let next: Vec<Tensor> = parts
                .iter()
                .map(|part| {
                    let end = Tensor::from_slice(&[loss::IGNORED]);
                    Tensor::cat(&[part.narrow(0, 1, part.size()[0] - 1), end], 0)
                })
                .collect();
            loss::language_model_loss(policy, &tokens, &Tensor::cat(&next, 0), &documents).expect("shapes fit")
        }
        HeadKind::Scalar => {
            let scores = loss::label_logits(policy, &tokens, &documents).expect("shapes fit");
            (scores.view([-1]) - Tensor::from_slice(&[0.0f32, 1.0, 2.0]))
                .square()
                .sum(Kind::Float)
        }
        _ => {
            use decoder::loss::{ClassificationLoss, LabelledRow};
            use tensor_core::Objective;
            let labels = Tensor::from_slice(&[0i64, 1, 2]);
            let row = LabelledRow {
                tokens,
                labels,
                documents,
            };
            assert!((ClassificationLoss.weight(&row) - 3.0).abs() < 1e-12);
            ClassificationLoss.loss(policy, &row).expect("shapes fit").sum
        }
    }
}

#[test]
fn gradients_of_full_fine_tuning_equal_transformers() {
    let mut checked = 0;
    for folder in families() {
        let golden = Vectors::open_file(&folder.join("golden.safetensors"));
        let mut wanted = golden.under("grad.");
        if wanted.is_empty() {
            continue;
        }
        for treatment in [Checkpointing::Keep, Checkpointing::Recompute] {
            let model = load(&folder).train_where(|_, _| true).expect("all train");
            let plan = CheckpointingPolicy::uniform(treatment, model.num_blocks());
            let policy = ModelPass::train(&model, &plan, DropoutKey(0));
            let sum = golden_loss(&policy, &model, &golden);
            golden::assert_close(&name(&folder), &sum, &golden.get("loss"), 1e-5, 0.0);
            policy.backward(&Loss::of(sum), 1.0, 1.0).expect("a backward pass");
            let mut found = 0;
            model.visit(&ModulePath::root(), &mut |at, param| {
                found += 1;
                let wanted = wanted
                    .get(at.as_str())
                    .unwrap_or_else(|| panic!("no gradient of `{at}`"));
                // Gradients are sums over 30 positions of both signs: rounding is relative to the largest.
                let largest = wanted.abs().max().double_value(&[]);
                golden::assert_close(
                    &format!("{} {at}", name(&folder)),
                    &param.value().grad(),
                    wanted,
                    1e-4,
                    1e-5 * largest.max(1.0),
                );
            });
            assert_eq!(found, wanted.len(), "{}", name(&folder));
        }
        checked += 1;
        wanted.clear();
    }
    assert!(checked >= 9, "{checked}");
}
