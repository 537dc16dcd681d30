//! Every loss against TRL's own on random log-probabilities, against published numbers, and against finite differences.

use align_dpo_ppo::preference::{Desirability, LossType, Pairs, Side, Strength, baseline, bradley_terry, kto};
use golden::{Vectors, assert_close};
use tch::{Kind, Tensor};

/// Ours and TRL's f64 sums differ in their order only.
const OF_F64: f64 = 1e-12;
/// TRL computes ORPO in f32.
const OF_F32: f64 = 2e-6;

fn one(number: f64) -> Tensor {
    Tensor::from_slice(&[number])
}

/// The pair of the published numbers.
fn published() -> Pairs {
    let side =
        |log_prob, reference, num_tokens| Side::new(one(log_prob), one(num_tokens)).with_reference(&one(reference));
    Pairs::new(side(-12.0, -13.0, 10.0), side(-15.0, -14.5, 12.0))
}

fn recorded(golden: &Vectors, leaves: (Tensor, Tensor)) -> Pairs {
    let get = |name: &str| golden.get(name).to_kind(Kind::Double);
    let side =
        |name: &str, leaf| Side::new(leaf, get(&format!("{name}_tokens"))).with_reference(&get(&format!("ref_{name}")));
    Pairs::new(side("chosen", leaves.0), side("rejected", leaves.1))
}

/// What TRL's vectors were made with.
fn strength(loss: LossType) -> Strength {
    let plain = Strength {
        beta: 0.3,
        label_smoothing: 0.15,
        simpo_gamma: 0.7,
    };
    match loss {
        LossType::Simpo => Strength { beta: 2.0, ..plain },
        LossType::Orpo => Strength { beta: 0.25, ..plain },
        _ => plain,
    }
}

#[test]
fn every_loss_of_trl_and_its_gradients_are_trls() {
    let golden = Vectors::open("preference");
    let names = [
        ("sigmoid", LossType::Sigmoid),
        ("hinge", LossType::Hinge),
        ("ipo", LossType::Ipo),
        ("robust", LossType::Robust),
        ("sppo_hard", LossType::SppoHard),
        ("apo_zero", LossType::ApoZero),
        ("apo_down", LossType::ApoDown),
        ("sft", LossType::Sft),
        ("sigmoid_norm", LossType::SigmoidNorm),
        ("simpo", LossType::Simpo),
        ("orpo", LossType::Orpo),
    ];
    assert_eq!(golden.under("loss.").len(), names.len());
    for (name, loss) in names {
        assert_eq!(serde_json::to_value(loss).unwrap(), name);
        let leaf = |side: &str| golden.get(side).set_requires_grad(true);
        let (chosen, rejected) = (leaf("chosen"), leaf("rejected"));
        let pairs = recorded(&golden, (chosen.shallow_clone(), rejected.shallow_clone()));
        let found = loss.of_pairs(&pairs, &strength(loss));
        let within = if loss == LossType::Orpo { OF_F32 } else { OF_F64 };
        let check = |what: &str, ours: &Tensor| {
            let what = format!("{what}.{name}");
            assert_close(&what, ours, &golden.get(&what), within, within);
        };
        check("loss", &found);
        found.sum(Kind::Double).backward();
        for (side, leaf) in [("chosen", &chosen), ("rejected", &rejected)] {
            let gradient = if leaf.grad().defined() {
                leaf.grad()
            } else {
                leaf.zeros_like()
            };
            let what = format!("grad.{name}.{side}");
            assert_close(&what, &gradient, &golden.get(&what), within, within);
        }
    }
}

#[test]
fn the_rewards_of_trls_metrics_are_ours() {
    let golden = Vectors::open("preference");
    let pairs = recorded(&golden, (golden.get("chosen"), golden.get("rejected")));
    let (chosen, rejected) = LossType::Sigmoid.rewards(&pairs, 0.3);
    let metrics = &golden::json("preference/metrics")["sigmoid"];
    let mean = |x: &Tensor| x.mean(Kind::Double).double_value(&[]);
    for (name, found, within) in [
        ("rewards/chosen", mean(&chosen), 1e-12),
        ("rewards/rejected", mean(&rejected), 1e-12),
        ("rewards/margins", mean(&(&chosen - &rejected)), 1e-12),
        // A mean of f32. A tie is no success.
        ("rewards/accuracies", mean(&chosen.gt_tensor(&rejected)), 1e-7),
        ("logps/chosen", mean(&golden.get("chosen")), 1e-12),
        ("logps/rejected", mean(&golden.get("rejected")), 1e-12),
    ] {
        let wanted = metrics[name].as_f64().unwrap();
        assert!((found - wanted).abs() < within, "{name}: {found} instead of {wanted}");
    }
}

#[test]
fn published_numbers_come_out() {
    let pairs = published();
    assert!((pairs.margin().double_value(&[0]) - 1.5).abs() < 1e-12);
    let smoothed = Strength {
        label_smoothing: 0.1,
        ..Strength::default()
    };
    let simpo = Strength {
        beta: 2.0,
        simpo_gamma: 1.0,
        ..Strength::default()
    };
    let orpo = published().with_chosen_nll(one(1.2));
    for (loss, pairs, strength, wanted) in [
        (LossType::Sigmoid, &pairs, Strength::default(), 0.620957),
        (LossType::Cdpo, &pairs, smoothed, 0.635957),
        (LossType::Robust, &pairs, smoothed, 0.602207),
        (LossType::Hinge, &pairs, Strength::default(), 0.85),
        (LossType::IpoSum, &pairs, Strength::default(), 12.25),
        (LossType::Ipo, &pairs, Strength::default(), 23.603403),
        (LossType::Simpo, &pairs, simpo, 1.241154),
        (LossType::Orpo, &orpo, Strength::default(), 1.265837),
    ] {
        let found = loss.of_pairs(pairs, &strength).double_value(&[0]);
        assert!((found - wanted).abs() < 5e-7, "{loss:?}: {found} instead of {wanted}");
    }
    for (desirable, wanted) in [(true, 0.482507), (false, 0.480011)] {
        let side = if desirable { &pairs.chosen } else { &pairs.rejected };
        let weights = Desirability {
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        };
        let found = kto(&side.log_ratio(), &Tensor::from_slice(&[desirable]), 0.3, &weights);
        assert!((found.double_value(&[0]) - wanted).abs() < 5e-7, "{desirable}");
    }
}

#[test]
fn at_the_reference_every_loss_has_its_known_value() {
    // Policy and reference agree: h = 0, so -log σ(0) = ln 2, the hinge is 1, IPO is (1/2β)².
    let numbers = Tensor::from_slice(&[-12.0, -3.5]);
    let lengths = Tensor::from_slice(&[10.0, 4.0]);
    let side = || Side::new(numbers.copy(), lengths.copy()).with_reference(&numbers);
    let pairs = Pairs::new(side(), side());
    let strength = Strength {
        beta: 0.2,
        label_smoothing: 0.1,
        simpo_gamma: 0.5,
    };
    let ln_2 = std::f64::consts::LN_2;
    for (loss, wanted) in [
        (LossType::Sigmoid, ln_2),
        (LossType::SigmoidNorm, ln_2),
        (LossType::Cdpo, ln_2),
        (LossType::Robust, ln_2),
        (LossType::Hinge, 1.0),
        (LossType::Ipo, 6.25),
        (LossType::IpoSum, 6.25),
        (LossType::SppoHard, 12.5),
        (LossType::ApoZero, 1.0),
        (LossType::ApoDown, 1.0),
        // -log σ(-γ) = log(1 + e^γ).
        (LossType::Simpo, (1.0 + 0.5f64.exp()).ln()),
    ] {
        for pair in [0, 1] {
            let found = loss.of_pairs(&pairs, &strength).double_value(&[pair]);
            assert!((found - wanted).abs() < 1e-12, "{loss:?}: {found} instead of {wanted}");
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let step = 1e-5;
    for loss in LossType::ALL {
        let value = |chosen: f64, rejected: f64| {
            let mut pairs = published();
            pairs.chosen.log_prob = one(chosen);
            pairs.rejected.log_prob = one(rejected);
            let pairs = Pairs::new(pairs.chosen, pairs.rejected);
            loss.of_pairs(&pairs, &strength(loss)).double_value(&[0])
        };
        let mut pairs = published();
        let leaves = [one(-12.0), one(-15.0)].map(|leaf| leaf.set_requires_grad(true));
        pairs.chosen.log_prob = leaves[0].shallow_clone();
        pairs.rejected.log_prob = leaves[1].shallow_clone();
        let pairs = Pairs::new(pairs.chosen, pairs.rejected);
        loss.of_pairs(&pairs, &strength(loss)).sum(Kind::Double).backward();
        let differences = [
            (value(-12.0 + step, -15.0) - value(-12.0 - step, -15.0)) / (2.0 * step),
            (value(-12.0, -15.0 + step) - value(-12.0, -15.0 - step)) / (2.0 * step),
        ];
        for (leaf, wanted) in leaves.iter().zip(differences) {
            let gradient = leaf.grad();
            let found = if gradient.defined() {
                gradient.double_value(&[0])
            } else {
                0.0
            };
            assert!(
                (found - wanted).abs() < 1e-8 * (1.0 + wanted.abs()),
                "{loss:?}: {found}, {wanted}"
            );
        }
    }
    // DPO's gradient is -β σ(-βh) for the better reply: 0.046257 at h = 1.5.
    let leaf = one(-12.0).set_requires_grad(true);
    let mut pairs = published();
    pairs.chosen.log_prob = leaf.shallow_clone();
    LossType::Sigmoid
        .of_pairs(&pairs, &Strength::default())
        .sum(Kind::Double)
        .backward();
    assert!((leaf.grad().double_value(&[0]) + 0.046257).abs() < 5e-7);
}

#[test]
fn single_replies_are_weighed_as_trl_weighs_them() {
    let golden = Vectors::open("preference");
    let weights = Desirability {
        beta: 0.3,
        desirable_weight: 1.2,
        undesirable_weight: 0.9,
    };
    let desirable = golden.get("kto.desirable").to_kind(Kind::Bool);
    let drift = baseline(&(golden.get("kto.mismatched") - golden.get("kto.mismatched_reference")));
    assert!((drift - golden.number("kto.baseline")).abs() < OF_F64);
    for (name, baseline) in [("kto", drift), ("kto_unpaired", 0.0)] {
        let leaf = golden.get("kto.log_prob").set_requires_grad(true);
        let loss = kto(&(&leaf - golden.get("kto.reference")), &desirable, baseline, &weights);
        let loss = loss.mean(Kind::Double);
        let wanted = golden.get(&format!("{name}.loss"));
        assert_close(name, &loss, &wanted, OF_F64, OF_F64);
        loss.backward();
        assert_close(name, &leaf.grad(), &golden.get(&format!("{name}.grad")), OF_F64, OF_F64);
    }
    // A policy that fell behind the reference is held against nobody.
    assert_eq!(baseline(&Tensor::from_slice(&[-2.0, 0.5])), 0.0);
}

#[test]
fn scores_of_pairs_are_weighed_as_trl_weighs_them() {
    let golden = Vectors::open("preference");
    let margin = golden.get("score.margin");
    for (name, margin, centring) in [("plain", None, 0.0), ("loss", Some(&margin), 0.02)] {
        let leaf = |side: &str| golden.get(&format!("score.{side}")).set_requires_grad(true);
        let (chosen, rejected) = (leaf("chosen"), leaf("rejected"));
        let loss = bradley_terry(&chosen, &rejected, margin, centring);
        let name = format!("reward.{name}");
        assert_close(&name, &loss, &golden.get(&name), OF_F64, OF_F64);
        loss.sum(Kind::Double).backward();
        for (side, leaf) in [("chosen", &chosen), ("rejected", &rejected)] {
            let name = format!("{name}.{side}");
            assert_close(&name, &leaf.grad(), &golden.get(&name), OF_F64, OF_F64);
        }
    }
}
