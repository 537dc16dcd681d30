//! The gradients of tokens that the model is sure of: each token by itself, against f64.
//!
//! Norms of whole tensors say nothing here: a gradient of size `1 - p` is lost among those of size 1.

use half::bf16;
use tch::{Device, Kind, Tensor};
use tensor_core::autograd;
use tensor_core::unit::on_each;

use super::{Ways, compute_by, reference};

const WIDTH: i64 = 64;
/// Four steps of the kernel, the last of them short.
const VOCABULARY: i64 = 1000;
/// Of each token's gradient. Rounding to bf16 before its sum and after it is 0.4 %; `p` rounded to bf16 before `p - 1` is
/// formed is 40 % at 0.9975, and 200 % at 0.9995.
const TOLERANCE: f64 = 0.01;
/// Of each log-probability: scores of about 20 in f32.
const LOG_P: f64 = 1e-3;

struct Case {
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
}

/// Every third word as a target, so that targets lie at every place of a step and of a lane, each with about the
/// probability `p`: numbers that bf16 holds, as f64.
fn case(p: f64) -> Case {
    tch::manual_seed(11);
    let options = (Kind::Double, Device::Cpu);
    let rounded = |x: Tensor| x.to_kind(Kind::BFloat16).to_kind(Kind::Double);
    let weight = rounded(Tensor::randn([VOCABULARY, WIDTH], options) * 0.2);
    let targets = Tensor::arange_start_step(0, VOCABULARY, 3, (Kind::Int64, Device::Cpu));
    let tokens = targets.size()[0];
    let hidden = Tensor::randn([tokens, WIDTH], options);
    let toward = weight.index_select(0, &targets);
    let (scores, slopes) = (hidden.matmul(&weight.tr()), toward.matmul(&weight.tr()));
    // How far each hidden state must go towards its target, by halving.
    let (mut low, mut high) = (
        Tensor::full([tokens, 1], -50.0, options),
        Tensor::full([tokens, 1], 50.0, options),
    );
    for _ in 0..50 {
        let middle = (&low + &high) / 2.0;
        let log_p = (&scores + &middle * &slopes).log_softmax(-1, Kind::Double);
        let is_below = log_p.gather(1, &targets.unsqueeze(1), false).lt(p.ln());
        low = middle.where_self(&is_below, &low);
        high = high.where_self(&is_below, &middle);
    }
    Case {
        hidden: rounded(hidden + low * toward),
        weight,
        targets,
    }
}

/// Log-probabilities, and the gradients of their sum for hidden and weight.
fn run(f: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor, case: &Case, kind: Kind) -> [Tensor; 3] {
    let [hidden, weight] = [&case.hidden, &case.weight].map(|x| x.detach().to_kind(kind).set_requires_grad(true));
    let log_probs = f(&hidden, &weight, &case.targets);
    autograd::backward(&[&log_probs], &[&log_probs.ones_like()]).unwrap();
    [log_probs.detach(), hidden.grad(), weight.grad()]
}

/// The largest distance of a row, as a part of that row's own length.
fn farthest(got: &Tensor, want: &Tensor) -> f64 {
    let length = |x: &Tensor| x.square().sum_dim_intlist(-1, false, Kind::Double).sqrt();
    let far = length(&(got.to_kind(Kind::Double) - want)) / length(want);
    // NaN is the largest.
    far.max().double_value(&[])
}

#[test]
fn the_gradient_of_every_token_is_right_however_sure_the_model_is() {
    for p in [0.5, 0.7, 0.9, 0.93, 0.97, 0.99, 0.996, 0.9975, 0.999, 0.9999, 0.99999] {
        let case = case(p);
        let want = run(reference::token_log_probs, &case, Kind::Double);
        let mean = want[0].exp().mean(Kind::Double).double_value(&[]);
        assert!((1.0 - mean) / (1.0 - p) < 2.0, "p is {mean}, not {p}");
        let check = |what: &str, ways: &Ways, kind: Kind| {
            let by = |h: &Tensor, w: &Tensor, t: &Tensor| compute_by(ways, h, w, t, false).0;
            let got = run(by, &case, kind);
            let far = farthest(&got[0].unsqueeze(1), &want[0].unsqueeze(1));
            assert!(
                far < LOG_P,
                "{what} {kind:?}, p = {p}: a log-probability is {far:.1e} off"
            );
            for (name, got, want) in [("hidden", &got[1], &want[1]), ("weight", &got[2], &want[2])] {
                let far = farthest(got, want);
                assert!(
                    far < TOLERANCE,
                    "{what} {kind:?}, p = {p}: a row of the {name}'s gradient is {far:.1e} off"
                );
            }
        };
        on_each(|unit| {
            check(&format!("{unit:?}"), &Ways::fused::<bf16>(), Kind::BFloat16);
            check(&format!("{unit:?}"), &Ways::fused::<f32>(), Kind::Float);
        });
        check("plain operators", &Ways::chunked(), Kind::BFloat16);
        check("plain operators", &Ways::chunked(), Kind::Float);
    }
}

#[test]
fn a_vocabulary_of_one_word_is_certain() {
    for (ways, kind) in [
        (Ways::fused::<bf16>(), Kind::BFloat16),
        (Ways::fused::<f32>(), Kind::Float),
        (Ways::chunked(), Kind::BFloat16),
        (Ways::chunked(), Kind::Double),
    ] {
        let ones = |rows| Tensor::ones([rows, 32], (kind, Device::Cpu)).set_requires_grad(true);
        let (hidden, weight) = (ones(3), ones(1));
        let targets = Tensor::zeros([3], (Kind::Int64, Device::Cpu));
        let (log_probs, entropies) = compute_by(&ways, &hidden, &weight, &targets, true);
        log_probs.sum(Kind::Float).backward();
        for zeros in [&log_probs, &entropies.unwrap(), &hidden.grad(), &weight.grad()] {
            assert_eq!(zeros.abs().max().double_value(&[]), 0.0, "{kind:?}");
        }
    }
}

#[test]
fn a_target_whose_score_is_infinite_is_not_certain() {
    for (ways, kind) in [
        (Ways::fused::<bf16>(), Kind::BFloat16),
        (Ways::fused::<f32>(), Kind::Float),
        (Ways::chunked(), Kind::Float),
    ] {
        let hidden = Tensor::full([2, 32], 1e20, (kind, Device::Cpu));
        let weight = Tensor::zeros([40, 32], (kind, Device::Cpu));
        let _ = weight.get(7).fill_(1e20);
        let targets = Tensor::from_slice(&[7i64, 8]);
        let log_probs = compute_by(&ways, &hidden, &weight, &targets, false).0;
        assert!(
            log_probs.isfinite().any().int64_value(&[]) == 0,
            "{kind:?}: {log_probs:?}"
        );
    }
}
