//! The objectives on a real model: what a reference is, and that packing changes nothing.

use std::rc::Rc;

use align_dpo_ppo::preference::{LossType, PreferenceConfig, Terms};
use align_dpo_ppo::{
    Error, KtoConfig, Likelihood, Mismatched, Preference, Reference, ReplyRow, RewardConfig, RewardLoss, ScoredRow,
    SingleReplies, SingleRow, open_log_probs, save_log_probs,
};
use checkpoint::ModelDir;
use decoder::{Decoder, HeadKind};
use golden::assert_close;
use lora::{LoraConfig, Wrapping};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel, ModelPass, Objective, named_params,
};

fn base(kind: Kind) -> Decoder {
    let dir = ModelDir::open(&golden::vectors_dir().join("trajectory/lora/base")).expect("a model");
    Decoder::load(&dir, Device::Cpu, kind).expect("weights")
}

/// The base with a LoRA adapter whose second factors are not zero.
fn adapted(kind: Kind) -> Decoder {
    let config = LoraConfig {
        r: 4,
        ..LoraConfig::default()
    };
    let model = base(kind);
    let wrapping = Wrapping::choose(config, &model.projection_paths(), &[]).expect("targets");
    let model = model
        .map_projections(&mut |at, projection| wrapping.projection(at, projection))
        .expect("adapters");
    let mut seed = 1.0;
    for (_, param) in named_params(&model) {
        if param.is_trainable() {
            seed += 1.0;
            let count = param.value().numel() as i64;
            let drawn = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7 + seed).sin() * 0.1;
            tch::no_grad(|| {
                param
                    .value()
                    .shallow_clone()
                    .copy_(&drawn.view(param.value().size().as_slice()));
            });
        }
    }
    model
}

/// Tokens and targets.
type Document = (Vec<i64>, Vec<i64>);

/// A document of `prompt + reply` tokens from a formula.
fn document(seed: usize, prompt: usize, reply: usize) -> Document {
    let t = prompt + reply;
    let tokens: Vec<i64> = (0..t)
        .map(|i| ((i * i * 7 + 13 * seed + 5 * i + 3) % 90 + 3) as i64)
        .collect();
    let targets = (0..t).map(|i| {
        if i + 1 >= prompt && i + 1 < t {
            tokens[i + 1]
        } else {
            -100
        }
    });
    (tokens.clone(), targets.collect())
}

fn row(documents: &[Document]) -> ReplyRow {
    let all = |part: fn(&Document) -> &Vec<i64>| {
        Tensor::from_slice(&documents.iter().flat_map(part).copied().collect::<Vec<i64>>())
    };
    ReplyRow {
        tokens: all(|document| &document.0),
        targets: all(|document| &document.1),
        documents: Documents::new(&documents.iter().map(|document| document.0.len()).collect::<Vec<_>>()),
        reference: None,
    }
}

fn pairs() -> Vec<Document> {
    vec![
        document(1, 4, 5),
        document(2, 4, 3),
        document(3, 2, 6),
        document(4, 2, 9),
    ]
}

fn plan(model: &Decoder) -> CheckpointingPolicy {
    CheckpointingPolicy::uniform(Checkpointing::Keep, model.num_blocks())
}

fn reference_log_probs(reference: &Reference, model: &Decoder, row: &ReplyRow) -> Tensor {
    let plan = plan(model);
    let policy = ModelPass::train(model, &plan, DropoutKey(1));
    reference.log_probs(&policy, row).expect("a reference")
}

/// Loss, metrics and gradients of rows that together are one step.
fn step<B>(objective: &dyn Objective<Batch = B>, model: &Decoder, rows: &[B]) -> (f64, Vec<f64>, Vec<Tensor>) {
    for (_, param) in named_params(model) {
        tensor_core::autograd::drop_gradient(param.value());
    }
    let total: f64 = rows.iter().map(|row| objective.weight(row)).sum();
    let (mut sum, mut metrics) = (0.0, Vec::new());
    let plan = plan(model);
    for row in rows {
        let policy = ModelPass::train(model, &plan, DropoutKey(1));
        let loss = objective.loss(&policy, row).expect("a loss");
        sum += loss.sum.double_value(&[]) / total;
        metrics.resize(loss.metrics.len(), 0.0);
        for (found, (_, value)) in metrics.iter_mut().zip(&loss.metrics) {
            *found += value / total;
        }
        policy.backward(&loss, 1.0 / total, 1.0).expect("gradients");
    }
    let trained = named_params(model)
        .into_iter()
        .filter(|(_, param)| param.is_trainable());
    (sum, metrics, trained.map(|(_, param)| param.value().grad()).collect())
}

fn config(loss: LossType) -> PreferenceConfig {
    PreferenceConfig {
        loss_type: Terms::One(loss),
        ..PreferenceConfig::default()
    }
}

#[test]
fn adapters_off_is_a_separate_copy_and_known_numbers_are_those_computed_bit_for_bit() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let (model, row_of_pairs) = (adapted(kind), row(&pairs()));
        let off = Reference::adapters_off(&model).expect("an adapter");
        let copy = Reference::copy(Box::new(base(kind)));
        let numbers = reference_log_probs(&off, &model, &row_of_pairs);
        assert!(!numbers.requires_grad());
        assert!(
            numbers.equal(&reference_log_probs(&copy, &model, &row_of_pairs)),
            "{kind:?}"
        );
        let itself = Reference::copy(Box::new(adapted(kind)));
        assert!(
            !numbers.equal(&reference_log_probs(&itself, &model, &row_of_pairs)),
            "the adapter does nothing"
        );

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known.safetensors");
        let kept: Vec<f32> = Vec::try_from(&numbers).unwrap();
        assert_eq!(open_log_probs(&path, 4).unwrap(), None);
        save_log_probs(&path, &kept).unwrap();
        assert_eq!(open_log_probs(&path, 4).unwrap(), Some(kept.clone()));
        assert_eq!(open_log_probs(&path, 6).unwrap(), None);

        let known = ReplyRow {
            reference: Some(Tensor::from_slice(&kept)),
            ..row(&pairs())
        };
        let objective =
            |reference| Preference::new(&config(LossType::Sigmoid), Likelihood::Reply, Some(reference)).unwrap();
        let computed = step(&objective(off), &model, &[row_of_pairs]);
        let from_disk = step(&objective(Reference::of_rows()), &model, &[known]);
        assert_eq!((computed.0, &computed.1), (from_disk.0, &from_disk.1));
        assert!(computed.2.iter().zip(&from_disk.2).all(|(a, b)| a.equal(b)));
    }
}

#[test]
fn packing_pairs_changes_no_loss_no_metric_and_no_gradient() {
    let model = adapted(Kind::Float);
    let all = pairs();
    let apart: Vec<ReplyRow> = all.chunks(2).map(row).collect();
    for (loss, likelihood) in [
        (LossType::Sigmoid, Likelihood::Reply),
        (LossType::Ipo, Likelihood::Reply),
        (LossType::Simpo, Likelihood::Reply),
        (LossType::Orpo, Likelihood::Document),
    ] {
        let reference = Reference::adapters_off(&model).unwrap();
        let objective = Preference::new(&config(loss), likelihood, Some(reference)).unwrap();
        let together = step(&objective, &model, &[row(&all)]);
        let separate = step(&objective, &model, &apart);
        assert!((together.0 - separate.0).abs() < 1e-5 * together.0.abs(), "{loss:?}");
        for (a, b) in together.1.iter().zip(&separate.1) {
            assert!((a - b).abs() < 1e-4, "{loss:?}: {a} {b}");
        }
        for (idx, (a, b)) in together.2.iter().zip(&separate.2).enumerate() {
            assert_close(&format!("{loss:?} {idx}"), a, b, 1e-3, 1e-5);
        }
    }
}

#[test]
fn gradients_reach_the_adapter_and_are_slopes_of_the_loss() {
    let model = adapted(Kind::Float);
    let objective = Preference::new(
        &PreferenceConfig {
            beta: 1.0,
            ..config(LossType::Sigmoid)
        },
        Likelihood::Reply,
        Some(Reference::adapters_off(&model).unwrap()),
    )
    .unwrap();
    let (_, _, gradients) = step(&objective, &model, &[row(&pairs())]);
    let trained: Vec<Tensor> = named_params(&model)
        .into_iter()
        .filter(|(_, param)| param.is_trainable())
        .map(|(_, param)| param.value().detach())
        .collect();
    // Along each tensor's own gradient, the slope is the gradient's squared norm.
    for (idx, (value, gradient)) in trained.iter().zip(&gradients).enumerate() {
        let norm = gradient.norm().double_value(&[]);
        assert!(norm > 0.0, "tensor {idx} is not reached");
        let step_size = 3e-3 / norm;
        let loss_at = |by: f64| {
            let before = value.copy();
            value.shallow_clone().copy_(&(value + gradient * by));
            let loss = step(&objective, &model, &[row(&pairs())]).0;
            value.shallow_clone().copy_(&before);
            loss
        };
        let slope = (loss_at(step_size) - loss_at(-step_size)) / (2.0 * step_size);
        assert!(
            (slope / (norm * norm) - 1.0).abs() < 2e-2,
            "tensor {idx}: {slope} {}",
            norm * norm
        );
    }
}

#[test]
fn one_drift_serves_all_rows_of_a_step_of_single_replies() {
    let model = adapted(Kind::Float);
    let all = pairs();
    let mismatched = || {
        Rc::new(Mismatched::new(vec![
            row(&[document(9, 3, 4)]),
            row(&[document(8, 3, 4)]),
        ]))
    };
    let single = |documents: &[Document], good: &[bool], mismatched: &Rc<Mismatched>| SingleRow {
        replies: row(documents),
        desirable: Tensor::from_slice(good),
        mismatched: mismatched.clone(),
    };
    let objective = SingleReplies::new(&KtoConfig::default(), Reference::adapters_off(&model).unwrap()).unwrap();
    let good = [true, false, false, true];
    let shared = mismatched();
    let together = step(&objective, &model, &[single(&all, &good, &shared)]);
    let shared = mismatched();
    let apart = [
        single(&all[..1], &good[..1], &shared),
        single(&all[1..], &good[1..], &shared),
    ];
    let separate = step(&objective, &model, &apart);
    assert!((together.0 - separate.0).abs() < 1e-6);
    assert!(
        together.1[0] > 0.0,
        "the drift of these documents is above 0: {:?}",
        together.1
    );
    assert!((together.1[0] - separate.1[0]).abs() < 1e-6);
    for (idx, (a, b)) in together.2.iter().zip(&separate.2).enumerate() {
        assert_close(&format!("gradient {idx}"), a, b, 1e-3, 1e-6);
    }
}

#[test]
fn a_reward_model_learns_from_whole_pairs_however_they_are_packed() {
    let model = base(Kind::Float).replace_head(HeadKind::Scalar, 3).unwrap();
    let config = RewardConfig {
        center_rewards_coefficient: Some(0.5),
    };
    let objective = RewardLoss::new(&config).unwrap();
    let scored = |documents: &[Document]| {
        let ReplyRow { tokens, documents, .. } = row(documents);
        ScoredRow {
            tokens,
            documents,
            margin: None,
        }
    };
    let all = pairs();
    let together = step(&objective, &model, &[scored(&all)]);
    let apart: Vec<ScoredRow> = all.chunks(2).map(scored).collect();
    let separate = step(&objective, &model, &apart);
    assert!((together.0 - separate.0).abs() < 1e-5);
    assert_close("score", &together.2[0], &separate.2[0], 1e-4, 1e-5);
    // By hand, from the scores that the model gives.
    let ReplyRow { tokens, documents, .. } = row(&all);
    let scores: Vec<f32> = Vec::try_from(model.classify(&tokens, &documents).view([-1])).unwrap();
    let by_hand: f64 = scores
        .chunks(2)
        .map(|pair| {
            let (chosen, rejected) = (f64::from(pair[0]), f64::from(pair[1]));
            (1.0 + (rejected - chosen).exp()).ln() + 0.5 * (chosen + rejected).powi(2)
        })
        .sum();
    assert!(
        (together.0 - by_hand / 2.0).abs() < 1e-5,
        "{} {}",
        together.0,
        by_hand / 2.0
    );
    let right = scores.chunks(2).filter(|pair| pair[0] > pair[1]).count();
    assert_eq!(together.1[0], right as f64 / 2.0);
    assert!(
        objective
            .loss(&ModelPass::evaluate(&model, &plan(&model)), &scored(&all[..1]))
            .is_err()
    );
}

#[test]
fn what_is_no_reference_is_refused() {
    let error = Reference::adapters_off(&base(Kind::Float)).unwrap_err();
    assert!(matches!(error, Error::NoAdapter { .. }), "{error}");
    let full = base(Kind::Float).train_where(|_, _| true).unwrap();
    let error = Reference::adapters_off(&full).unwrap_err();
    assert!(
        error.to_string().contains("`model.embed_tokens.weight` trains"),
        "{error}"
    );
    let error = Preference::new(&config(LossType::Sigmoid), Likelihood::Reply, None).unwrap_err();
    assert!(error.to_string().contains("`sigmoid`"), "{error}");
    // What needs none holds none.
    Preference::new(&config(LossType::Simpo), Likelihood::Reply, None).unwrap();
    let model = adapted(Kind::Float);
    let plan = plan(&model);
    let policy = ModelPass::train(&model, &plan, DropoutKey(1));
    let error = Reference::of_rows().log_probs(&policy, &row(&pairs())).unwrap_err();
    assert!(error.to_string().contains("wanted shape [4], found [0]"), "{error}");
}

#[test]
fn the_fingerprint_follows_the_base_and_the_rows_alone() {
    let (model, other) = (adapted(Kind::Float), base(Kind::Float));
    let of = |model: &Decoder, rows: &[ReplyRow]| {
        let mut fingerprint = Reference::of_rows().fingerprint(model);
        for row in rows {
            fingerprint.add_row(row);
        }
        fingerprint.text()
    };
    let all = pairs();
    let first = of(&model, &[row(&all)]);
    assert_eq!(first, of(&other, &[row(&all)]));
    assert_ne!(first, of(&base(Kind::BFloat16), &[row(&all)]));
    assert_ne!(first, of(&model, &[row(&all[..2])]));
    assert_ne!(first, of(&model, &[row(&all[..2]), row(&all[2..])]));
    let mut replies = all.clone();
    replies[0].1[3] = -100;
    assert_ne!(first, of(&model, &[row(&replies)]));
}
