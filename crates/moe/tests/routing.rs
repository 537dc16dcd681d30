//! Fewer experts: pruned by enumeration and by usage, merged, skipped.

use golden::assert_close;
use kernels::Activation;
use moe::{
    Calibration, Expert, Experts, Groups, Names, Router, RouterConfig, keep_most_used, keep_nearest, merge_experts,
};
use tch::{Kind, Tensor};
use tensor_core::{Dense, Documents, Linear, ModulePath, Param, Parameters, Pass, Role, Sublayer};

const WIDTH: i64 = 10;
const INNER: i64 = 6;
const TOKENS: i64 = 48;

fn drawn(seed: i64, shape: &[i64]) -> Tensor {
    golden::random(seed, shape)
}

fn input() -> Tensor {
    drawn(1, &[TOKENS, WIDTH])
}

/// Gate, up and down of an expert.
fn matrices(seed: i64) -> [Tensor; 3] {
    [
        drawn(seed, &[INNER, WIDTH]) * 0.5,
        drawn(seed + 50, &[INNER, WIDTH]) * 0.5,
        drawn(seed + 90, &[WIDTH, INNER]) * 0.5,
    ]
}

fn expert(parts: &[Tensor; 3]) -> Expert {
    let slot = |weight: &Tensor| Linear::new(Dense::new(Param::frozen(weight.copy(), Role::Base)), None);
    let [gate, up, down] = parts;
    Expert::new([slot(gate), slot(up), slot(down)], Names::Qwen, Activation::Silu)
}

fn layer_of(experts: &[[Tensor; 3]], weight: Tensor, k: usize) -> Experts {
    let router = Router::new(Param::frozen(weight, Role::Router), RouterConfig::top(k)).expect("fits");
    Experts::new(ModulePath::from("mlp"), router, experts.iter().map(expert).collect()).expect("fits")
}

fn router_rows(num: i64) -> Tensor {
    drawn(7, &[num, WIDTH]) * 0.5
}

fn layer(num: i64) -> Experts {
    let experts: Vec<[Tensor; 3]> = (0..num).map(|idx| matrices(100 * (idx + 1))).collect();
    layer_of(&experts, router_rows(num), 2)
}

fn run(layer: &Experts) -> Tensor {
    let documents = Documents::new(&[TOKENS as usize]);
    layer.forward(&input(), &Pass::evaluate(&documents))
}

fn apart(a: &Tensor, b: &Tensor) -> f64 {
    (a - b)
        .to_kind(Kind::Double)
        .square()
        .sum(Kind::Double)
        .sqrt()
        .double_value(&[])
}

#[test]
fn the_set_that_is_kept_is_the_nearest_of_all_sets_of_pruned_layers() {
    let whole = run(&layer(5));
    let sample = Calibration::of(&layer(5), &input());
    for num_kept in [2, 3, 4] {
        let mut best = (Vec::new(), f64::INFINITY);
        for mask in 0u32..32 {
            let kept: Vec<usize> = (0..5).filter(|expert| mask & (1 << expert) != 0).collect();
            if kept.len() == num_kept {
                // The pruned layer itself, run.
                let distance = apart(&run(&layer(5).keeping(&kept).expect("kept")), &whole);
                let said = sample.distance(&layer(5), &kept).expect("a distance");
                assert!((said - distance).abs() < 1e-3 * distance, "{kept:?}: {said} {distance}");
                if distance < best.1 {
                    best = (kept, distance);
                }
            }
        }
        let (kept, distance) = keep_nearest(&layer(5), &sample, num_kept).expect("a set");
        assert_eq!(kept, best.0);
        assert!((distance - best.1).abs() < 1e-3 * best.1);
    }
}

#[test]
fn keeping_all_changes_nothing_and_an_expert_that_nobody_is_given_can_go() {
    let whole = run(&layer(4));
    assert_eq!(run(&layer(4).keeping(&[0, 1, 2, 3]).expect("kept")), whole);
    // Row 2 of the router says no to everybody.
    let spurned = || {
        let experts: Vec<[Tensor; 3]> = (0..4).map(|idx| matrices(100 * (idx + 1))).collect();
        let bias = Param::frozen(Tensor::from_slice(&[0.0f32, 0.0, -5.0, 0.0]), Role::Balance);
        layer_of(&experts, router_rows(4), 2)
            .with_router_bias(bias)
            .expect("fits")
    };
    let sample = Calibration::of(&spurned(), &input());
    assert_eq!(sample.usage()[2], 0.0);
    assert_eq!(keep_most_used(&sample, 3).expect("kept"), [0, 1, 3]);
    let (kept, distance) = keep_nearest(&spurned(), &sample, 3).expect("a set");
    assert!(kept == [0, 1, 3] && distance < 1e-4, "{kept:?} {distance}");
    assert_close(
        "without it",
        &run(&spurned().keeping(&kept).expect("kept")),
        &run(&spurned()),
        1e-5,
        1e-5,
    );
}

#[test]
fn usage_counts_what_tokens_were_given() {
    let sample = Calibration::of(&layer(5), &input());
    assert_eq!(sample.usage().iter().sum::<f64>(), 2.0 * TOKENS as f64);
    let kept = keep_most_used(&sample, 2).expect("kept");
    let least = kept
        .iter()
        .map(|&expert| sample.usage()[expert])
        .fold(f64::INFINITY, f64::min);
    let others = (0..5).filter(|expert| !kept.contains(expert));
    assert!(others.into_iter().all(|expert| sample.usage()[expert] <= least));
}

#[test]
fn merging_equal_experts_in_any_order_of_neurons_is_the_same_layer() {
    let order = Tensor::from_slice(&[4i64, 1, 5, 0, 3, 2]);
    let permuted = |parts: &[Tensor; 3]| {
        [
            parts[0].index_select(0, &order),
            parts[1].index_select(0, &order),
            parts[2].index_select(1, &order),
        ]
    };
    let (a, b) = (matrices(100), matrices(200));
    let experts = [a.shallow_clone_all(), permuted(&b), permuted(&a), b.shallow_clone_all()];
    let mixed = || layer_of(&experts, router_rows(4), 2);
    // An expert whose neurons are in another order is the same function.
    assert_close("permuted", &run_one(&permuted(&a)), &run_one(&a), 1e-5, 1e-5);
    let sample = Calibration::of(&mixed(), &input());
    let groups = Groups {
        leaders: vec![0, 3],
        of: vec![0, 1, 0, 1],
    };
    let merged = merge_experts(mixed(), &sample, &groups).expect("merged");
    assert_eq!(merged.experts().len(), 2);
    assert_close("merged", &run(&merged), &run(&mixed()), 1e-5, 1e-5);
    let documents = Documents::new(&[TOKENS as usize]);
    let pass = Pass::evaluate(&documents);
    assert_close(
        "naively",
        &merged.forward_naively(&input(), &pass),
        &run(&mixed()),
        1e-5,
        1e-5,
    );
    let mut paths = Vec::new();
    let spread = merge_experts(mixed(), &sample, &groups).expect("merged").spread();
    spread.visit(&ModulePath::root(), &mut |at, _| paths.push(at.to_string()));
    assert_eq!((spread.experts().len(), paths.len()), (4, 13));
    assert_close("spread", &run(&spread), &run(&merged), 1e-6, 1e-6);
}

trait CloneAll {
    fn shallow_clone_all(&self) -> Self;
}

impl CloneAll for [Tensor; 3] {
    fn shallow_clone_all(&self) -> Self {
        self.each_ref().map(Tensor::shallow_clone)
    }
}

fn run_one(parts: &[Tensor; 3]) -> Tensor {
    let documents = Documents::new(&[TOKENS as usize]);
    expert(parts).forward(&input(), &Pass::evaluate(&documents))
}

#[test]
fn a_merged_expert_is_the_mean_weighted_by_usage() {
    let sample = Calibration::of(&layer(4), &input());
    let groups = Groups {
        leaders: vec![0, 1],
        of: vec![0, 1, 1, 1],
    };
    let merged = merge_experts(layer(4), &sample, &groups).expect("merged");
    let alone = merged.experts()[0].slots()[0].projection().weight();
    assert_close("a group of one", &alone, &matrices(100)[0], 0.0, 1e-6);
    // Whatever the order of neurons, the mean of all entries is the weighted mean of the members'.
    let total: f64 = sample.usage()[1..].iter().sum();
    let mean = |tensor: &Tensor| tensor.mean(Kind::Double).double_value(&[]);
    let wanted: f64 = (1..4)
        .map(|idx| sample.usage()[idx] / total * mean(&matrices(100 * (idx as i64 + 1))[2]))
        .sum();
    let found = mean(&merged.experts()[1].slots()[2].projection().weight());
    assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
}

#[test]
fn groups_are_led_by_the_most_used_and_joined_by_the_most_alike() {
    // Rows 2 and 3 of the router are nearly rows 0 and 1.
    let rows = router_rows(2);
    let rows = Tensor::cat(&[&rows * 1.2, &rows + drawn(5, &[2, WIDTH]) * 0.01], 0);
    let experts: Vec<[Tensor; 3]> = (0..4).map(|idx| matrices(100 * (idx + 1))).collect();
    let sample = Calibration::of(&layer_of(&experts, rows, 1), &input());
    let groups = Groups::choose(&sample, 2).expect("groups");
    assert_eq!(groups.leaders, keep_most_used(&sample, 2).expect("kept"));
    assert_eq!((groups.of[0], groups.of[1]), (groups.of[2], groups.of[3]), "{groups:?}");
    let all = Groups::choose(&sample, 4).expect("groups");
    assert_eq!((all.leaders, all.of), (vec![0, 1, 2, 3], vec![0, 1, 2, 3]));
}

#[test]
fn the_median_ratio_lets_half_of_the_tokens_skip_their_second_expert() {
    let sample = Calibration::of(&layer(5), &input());
    let threshold = sample.skip_threshold().expect("two experts a token");
    let config = RouterConfig {
        skip_below: threshold,
        ..RouterConfig::top(2)
    };
    let router = Router::new(Param::frozen(router_rows(5), Role::Router), config).expect("fits");
    let documents = Documents::new(&[TOKENS as usize]);
    let routing = router.route(&input(), &Pass::evaluate(&documents), 0);
    let pairs = routing.counts(5).sum(Kind::Float).double_value(&[]) as i64;
    assert_eq!(pairs, TOKENS + TOKENS / 2);
    let single = layer_of(&[matrices(1), matrices(2)], router_rows(2), 1);
    assert_eq!(Calibration::of(&single, &input()).skip_threshold(), None);
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let sample = Calibration::of(&layer(4), &input());
    for (error, part) in [
        (
            keep_nearest(&layer(4), &sample, 5).unwrap_err(),
            "1 to 4 experts to keep",
        ),
        (keep_most_used(&sample, 0).unwrap_err(), "1 to 4 experts to keep"),
        (layer(4).keeping(&[0, 4]).unwrap_err(), "numbers below 4"),
        // A token is given two.
        (layer(4).keeping(&[1]).unwrap_err(), "`num_experts_per_tok`"),
    ] {
        let error = error.to_string();
        assert!(error.contains(part) && error.contains("hint: "), "{error}");
    }
}
