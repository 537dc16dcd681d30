//! The loss of a head against its plain twin and the equations in f64.

use tensor_core::unit::on_each;

use super::*;

/// f32 sums of a few hundred products.
const F32: f64 = 5e-6;
/// Operands are exact in bf16; probabilities are rounded once (2^-9) before their sum, results once more.
const BF16: f64 = 8e-3;

/// Largest distance, as a part of the reference's largest number.
fn distance(got: &Tensor, want: &Tensor) -> f64 {
    let (got, want) = (got.to_kind(Kind::Double), want.to_kind(Kind::Double));
    let largest = want.abs().max().double_value(&[]).max(1e-2);
    (got - want).abs().max().double_value(&[]) / largest
}

struct Case {
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    /// Of the log-probabilities.
    gradient: Tensor,
}

/// Tokens, width, vocabulary; every `ignored`-th token has no target.
fn case([t, d, v]: [i64; 3], ignored: i64, kind: Kind) -> Case {
    tch::manual_seed(5);
    let options = (Kind::Float, Device::Cpu);
    let targets = Tensor::randint(v, [t], (Kind::Int64, Device::Cpu));
    let every = Tensor::arange(t, (Kind::Int64, Device::Cpu)).remainder(ignored.max(1));
    let skipped = if ignored > 0 { every.eq(0) } else { every.not_equal(0) };
    Case {
        hidden: (Tensor::randn([t, d], options) * 2.0).to_kind(kind),
        weight: (Tensor::randn([v, d], options) * (1.5 / (d as f64).sqrt())).to_kind(kind),
        targets: targets.masked_fill(&skipped, IGNORED),
        gradient: Tensor::randn([t], options),
    }
}

const SIZES: [([i64; 3], i64); 7] = [
    ([1, 8, 3], 0),
    ([5, 40, 33], 2),
    ([33, 64, 257], 0),
    ([70, 96, 1000], 3),
    ([300, 128, 511], 4),
    ([40, 33, 512], 1),
    ([520, 32, 300], 0),
];

type Function = fn(&Tensor, &Tensor, &Tensor) -> Tensor;

/// Log-probabilities and gradients of hidden and weight.
fn run(function: Function, case: &Case, kind: Kind) -> [Tensor; 3] {
    let [hidden, weight] = [&case.hidden, &case.weight].map(|x| x.to_kind(kind).detach().set_requires_grad(true));
    let log_probs = function(&hidden, &weight, &case.targets);
    autograd::backward(&[&log_probs], &[&case.gradient.to_kind(log_probs.kind())]).unwrap();
    [log_probs.detach(), hidden.grad(), weight.grad()]
}

#[test]
fn log_probs_and_gradients_equal_the_reference_in_f64() {
    for (size, ignored) in SIZES {
        for (kind, tolerance) in [(Kind::Float, F32), (Kind::BFloat16, BF16)] {
            let case = case(size, ignored, kind);
            let want = run(reference::token_log_probs, &case, Kind::Double);
            on_each(|unit| {
                let got = run(token_log_probs, &case, kind);
                for ((name, got), want) in ["log p", "dh", "dw"].iter().zip(&got).zip(&want) {
                    let far = distance(got, want);
                    assert!(far < tolerance, "{unit:?} {kind:?} {size:?}: {name} is {far:.1e} off");
                }
                assert_eq!(got[0].kind(), Kind::Float);
                assert_eq!((got[1].kind(), got[2].kind()), (kind, kind));
            });
        }
    }
}

#[test]
fn chunks_by_libtorch_equal_the_reference() {
    for (size, ignored) in SIZES {
        // f64 has no fused kernel.
        let case = case(size, ignored, Kind::Double);
        let want = run(reference::token_log_probs, &case, Kind::Double);
        let got = run(token_log_probs, &case, Kind::Double);
        // The log-probabilities come back in f32.
        assert!(distance(&got[0], &want[0]) < 1e-6);
        assert!(distance(&got[1], &want[1]) < 1e-6);
        assert!(distance(&got[2], &want[2]) < 1e-6);
        let got = token_log_probs_and_entropies(&case.hidden, &case.weight, &case.targets).1;
        assert!(distance(&got, &reference::entropies(&case.hidden, &case.weight, &case.targets)) < 1e-6);
    }
}

#[test]
fn entropies_equal_the_reference() {
    for (size, ignored) in SIZES {
        // The difference of two numbers that are larger by the size of the scores.
        for (kind, tolerance) in [(Kind::Float, 4.0 * F32), (Kind::BFloat16, 4.0 * F32)] {
            let case = case(size, ignored, kind);
            let [hidden, weight] = [&case.hidden, &case.weight].map(|x| x.to_kind(Kind::Double));
            let want = reference::entropies(&hidden, &weight, &case.targets);
            on_each(|unit| {
                let (log_probs, got) = token_log_probs_and_entropies(&case.hidden, &case.weight, &case.targets);
                let far = distance(&got, &want);
                assert!(far < tolerance, "{unit:?} {kind:?} {size:?}: {far:.1e}");
                assert!(log_probs.equal(&token_log_probs(&case.hidden, &case.weight, &case.targets)));
            });
        }
    }
}

#[test]
fn the_loss_is_minus_the_sum_and_its_gradient_scales() {
    let case = case([70, 96, 1000], 3, Kind::BFloat16);
    let hidden = case.hidden.detach().set_requires_grad(true);
    let loss = linear_cross_entropy(&hidden, &case.weight, &case.targets);
    assert_eq!((loss.kind(), loss.dim()), (Kind::Float, 0));
    let mean = loss / 23.0;
    mean.backward();
    let exact = case.hidden.to_kind(Kind::Double).set_requires_grad(true);
    let want = reference::linear_cross_entropy(&exact, &case.weight.to_kind(Kind::Double), &case.targets) / 23.0;
    want.backward();
    assert!(distance(&(hidden.grad() * 23.0), &(exact.grad() * 23.0)) < BF16);
}

#[test]
fn a_frozen_weight_gets_no_gradient_and_a_frozen_hidden_state_neither() {
    let case = case([33, 64, 257], 0, Kind::Float);
    let both = run(token_log_probs, &case, Kind::Float);
    let hidden = case.hidden.detach().set_requires_grad(true);
    let got = token_log_probs(&hidden, &case.weight, &case.targets);
    autograd::backward(&[&got], &[&case.gradient]).unwrap();
    assert!(hidden.grad().equal(&both[1]) && !case.weight.grad().defined());
    let weight = case.weight.detach().set_requires_grad(true);
    let got = token_log_probs(&case.hidden, &weight, &case.targets);
    autograd::backward(&[&got], &[&case.gradient]).unwrap();
    assert!(weight.grad().equal(&both[2]));
    assert!(!token_log_probs(&case.hidden, &case.weight, &case.targets).requires_grad());
}

#[test]
fn equal_logits_give_the_logarithm_of_the_vocabulary() {
    let options = (Kind::BFloat16, Device::Cpu);
    let (hidden, weight) = (Tensor::ones([3, 32], options), Tensor::ones([1000, 32], options));
    let targets = Tensor::from_slice(&[0i64, IGNORED, 999]);
    let loss = linear_cross_entropy(&hidden, &weight, &targets).double_value(&[]);
    assert!((loss - 2.0 * 1000f64.ln()).abs() < 1e-4, "{loss}");
    let (log_probs, entropies) = token_log_probs_and_entropies(&hidden, &weight, &targets);
    assert_eq!(log_probs.double_value(&[1]).to_bits(), 0);
    assert!((entropies.double_value(&[2]) - 1000f64.ln()).abs() < 1e-4);
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    for kind in [Kind::Float, Kind::BFloat16] {
        // Scores rise along the vocabulary to 3200, so the base of the exponentials moves again and again.
        let weight = Tensor::arange(1000, (Kind::Float, Device::Cpu))
            .unsqueeze(1)
            .expand([1000, 32], false)
            / 1000.0;
        let (hidden, weight) = (Tensor::full([40, 32], 100.0, (kind, Device::Cpu)), weight.to_kind(kind));
        let targets = Tensor::full([40], 990, (Kind::Int64, Device::Cpu));
        let case = Case {
            hidden,
            weight,
            targets,
            gradient: Tensor::ones([40], (Kind::Float, Device::Cpu)),
        };
        let want = run(reference::token_log_probs, &case, Kind::Double);
        let got = run(token_log_probs, &case, kind);
        // Scores of 3200 in f32 are good to 2e-4.
        assert!((&got[0] - &want[0]).abs().max().double_value(&[]) < 2e-3);
        assert!(distance(&got[1], &want[1]) < BF16);
        assert!(got[2].isfinite().all().int64_value(&[]) == 1);
    }
}

#[test]
fn numbers_that_are_none_make_the_loss_none() {
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let case = case([40, 64, 300], 0, kind);
            let _ = case.hidden.narrow(0, 7, 1).fill_(bad);
            let got = run(token_log_probs, &case, kind);
            assert!(got[0].isnan().sum(Kind::Int64).int64_value(&[]) == 1, "{kind:?} {bad}");
            assert!(got[0].isnan().int64_value(&[7]) == 1);
            assert!(got[1].isnan().any_dim(1, false).sum(Kind::Int64).int64_value(&[]) == 1);
            let loss = linear_cross_entropy(&case.hidden, &case.weight, &case.targets);
            assert!(loss.double_value(&[]).is_nan());
        }
    }
}

#[test]
fn a_row_without_targets_costs_nothing_and_has_zero_gradients() {
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
        let mut case = case([6, 16, 30], 0, kind);
        case.targets = Tensor::full([6], IGNORED, (Kind::Int64, Device::Cpu));
        for result in run(token_log_probs, &case, kind) {
            assert_eq!(result.abs().sum(Kind::Double).double_value(&[]).to_bits(), 0);
        }
    }
}

#[test]
#[should_panic(expected = "do not lie in a vocabulary of 30")]
fn a_target_outside_the_vocabulary_is_refused() {
    let mut case = case([6, 16, 30], 0, Kind::Float);
    case.targets = Tensor::full([6], 30, (Kind::Int64, Device::Cpu));
    let _ = token_log_probs(&case.hidden, &case.weight, &case.targets);
}
