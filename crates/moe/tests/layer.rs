//! What holds for every layer of experts: routing, grouping, balance.
//!
//! Tolerances: f32 sums over at most some hundred terms of size one differ by rounding below 1e-5.

use golden::{Vectors, assert_close};
use kernels::Activation;
use moe::{
    Dispatch, Expert, Experts, Gating, Names, Router, RouterConfig, Shared, load_balancing_loss, max_violation,
    update_bias, z_loss,
};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Dense, Documents, DropoutKey, Linear, ModulePath, Param, Parameters, Pass, Role, SideLosses, Sublayer, autograd,
};

const NEAR: f64 = 1e-5;
const WIDTH: i64 = 12;
const INNER: i64 = 7;
const TOKENS: i64 = 31;

fn drawn(seed: i64, shape: &[i64]) -> Tensor {
    golden::random(seed, shape)
}

fn input() -> Tensor {
    drawn(3, &[TOKENS, WIDTH])
}

fn slot(seed: i64, shape: [i64; 2], trains: bool) -> Linear {
    let weight = drawn(seed, &shape) * 0.4;
    let param = match trains {
        true => Param::trainable(&weight, Role::Base),
        false => Param::frozen(weight, Role::Base),
    };
    Linear::new(Dense::new(param), None)
}

fn expert(seed: i64, trains: bool) -> Expert {
    let slots = [
        slot(seed, [INNER, WIDTH], trains),
        slot(seed + 100, [INNER, WIDTH], trains),
        slot(seed + 200, [WIDTH, INNER], trains),
    ];
    Expert::new(slots, Names::Mixtral, Activation::Silu)
}

fn router(num_experts: i64, config: RouterConfig, trains: bool) -> Router {
    let weight = drawn(77, &[num_experts, WIDTH]) * 0.3;
    let param = match trains {
        true => Param::trainable(&weight, Role::Router),
        false => Param::frozen(weight, Role::Router),
    };
    Router::new(param, config).expect("fits")
}

fn layer(seeds: &[i64], config: RouterConfig, trains: bool) -> Experts {
    let at = ModulePath::from("model.layers.3.block_sparse_moe");
    let experts = seeds.iter().map(|&seed| expert(seed, trains)).collect();
    Experts::new(at, router(seeds.len() as i64, config, trains), experts).expect("fits")
}

fn documents() -> Documents {
    Documents::new(&[TOKENS as usize])
}

fn configs() -> [RouterConfig; 5] {
    let top = RouterConfig::top(2);
    [
        top,
        RouterConfig {
            normalise: false,
            ..top
        },
        RouterConfig::top(4),
        RouterConfig {
            gating: Gating::Dense,
            normalise: false,
            ..top
        },
        RouterConfig { skip_below: 0.7, ..top },
    ]
}

#[test]
fn grouped_experts_equal_the_loop_over_them_and_so_do_their_gradients() {
    let documents = documents();
    for config in configs() {
        let results = [false, true].map(|naively| {
            let shared = Shared {
                expert: expert(900, true),
                gate: Param::trainable(&drawn(5, &[1, WIDTH]), Role::Router),
            };
            let layer = layer(&[1, 2, 3, 4], config, true).with_shared(shared);
            let x = input().set_requires_grad(true);
            let pass = Pass::train(&documents, DropoutKey(4));
            let y = match naively {
                true => layer.forward_naively(&x, &pass),
                false => layer.forward(&x, &pass),
            };
            autograd::backward(&[&y], &[&drawn(8, &[TOKENS, WIDTH])]).expect("a backward pass");
            let mut all = vec![("y".to_owned(), y), ("dx".to_owned(), x.grad())];
            layer.visit(&ModulePath::root(), &mut |at, param| {
                all.push((at.to_string(), param.value().grad()));
            });
            all
        });
        let [grouped, naive] = results;
        assert_eq!(grouped.len(), 2 + 1 + 12 + 3 + 1);
        for ((name, ours), (_, theirs)) in grouped.iter().zip(&naive) {
            assert!(theirs.abs().max().double_value(&[]) > 0.0, "{config:?}: {name}");
            assert_close(&format!("{config:?}: {name}"), ours, theirs, NEAR, 5.0 * NEAR);
        }
    }
}

#[test]
fn weights_are_a_softmax_over_the_best_logits_and_counts_sum_to_t_times_k() {
    for k in [1usize, 2, 3, 5] {
        let routing = router(5, RouterConfig::top(k), false).route(&input(), &Pass::evaluate(&documents()), 0);
        let best = routing.logits.topk(k as i64, -1, true, true).0.softmax(-1, Kind::Float);
        assert_close("softmax of the best", &routing.weights, &best, NEAR, 1e-6);
        assert_eq!(
            routing.counts(5).sum(Kind::Float).double_value(&[]),
            (TOKENS as usize * k) as f64
        );
        let dispatch = Dispatch::of(&routing.chosen, 5);
        assert_eq!(dispatch.counts().iter().sum::<i64>(), TOKENS * k as i64);
        assert_eq!(dispatch.tokens().size(), [TOKENS * k as i64]);
    }
}

#[test]
fn the_published_rows_route_as_computed_by_hand() {
    let rows = [
        [2.0f32, 1.0, 0.0, -1.0],
        [0.0, 0.5, 1.5, -0.5],
        [1.0, 1.2, -1.0, 0.3],
        [-0.2, 0.1, 0.4, 3.0],
    ];
    let logits = Tensor::from_slice(&rows.concat()).view([4, 4]);
    let routing = router(4, RouterConfig::top(2), false).choose(&logits);
    let chosen: Vec<i64> = routing.chosen.flatten(0, -1).try_into().expect("flat");
    assert_eq!(chosen, [0, 1, 2, 1, 1, 0, 3, 2]);
    let wanted = [
        0.731059, 0.268941, 0.731059, 0.268941, 0.549834, 0.450166, 0.930862, 0.069138,
    ];
    assert_close(
        "weights",
        &routing.weights.flatten(0, -1),
        &Tensor::from_slice(&wanted),
        0.0,
        1e-6,
    );
    let counts = routing.counts(4);
    assert_eq!(Vec::<f32>::try_from(&counts).expect("flat"), [2.0, 3.0, 2.0, 1.0]);
    let mean = routing.probabilities.mean_dim(&[0i64][..], false, Kind::Float);
    let wanted = Tensor::from_slice(&[0.289618, 0.231267, 0.194328, 0.284787]);
    assert_close("mean probabilities", &mean, &wanted, 0.0, 1e-6);
    let aux = load_balancing_loss(&routing.probabilities, &counts).double_value(&[]);
    assert!((aux - 1.946480).abs() < 2e-6, "{aux}");
    assert!((aux / 2.0 - 0.973240).abs() < 1e-6, "as Switch counts it");
    assert!((z_loss(&logits).double_value(&[]) - 6.075987).abs() < 1e-5);
    assert_eq!(max_violation(&[2.0, 3.0, 2.0, 1.0]), 0.5);
}

#[test]
fn balance_losses_and_their_gradients_equal_transformers() {
    let golden = Vectors::open("moe/balance");
    let loss = |logits: &Tensor| {
        let probabilities = logits.softmax(-1, Kind::Double);
        let chosen = logits.topk(2, -1, true, true).1.flatten(0, -1);
        load_balancing_loss(&probabilities, &chosen.bincount::<Tensor>(None, 5))
    };
    let logits = golden.get("logits");
    for idx in 0..3 {
        let leaf = logits.get(idx).copy().set_requires_grad(true);
        let aux = loss(&leaf);
        aux.backward();
        assert_close("aux", &aux, &golden.get(&format!("aux.{idx}")), 1e-6, 0.0);
        assert_close("d_aux", &leaf.grad(), &golden.get(&format!("d_aux.{idx}")), 1e-6, 1e-9);
    }
    // All layers' tokens as if of one.
    assert_close(
        "aux of all",
        &loss(&logits.view([-1, 5])),
        &golden.get("aux"),
        1e-6,
        0.0,
    );
}

#[test]
fn the_balance_loss_is_k_where_probabilities_are_even_and_its_gradient_evens_them_out() {
    let even = Tensor::full([9, 4], 0.25, (Kind::Float, Device::Cpu));
    for counts in [[18.0f32, 0.0, 0.0, 0.0], [9.0, 0.0, 5.0, 4.0]] {
        let loss = load_balancing_loss(&even, &Tensor::from_slice(&counts)).double_value(&[]);
        assert!((loss - 2.0).abs() < 1e-6, "{counts:?}: {loss}");
    }
    let logits = (drawn(4, &[40, 4]) + Tensor::from_slice(&[1.5f32, 0.0, 0.0, 0.0])).set_requires_grad(true);
    let routing = router(4, RouterConfig::top(1), false).choose(&logits);
    let counts = routing.counts(4);
    load_balancing_loss(&routing.probabilities, &counts).backward();
    let by_expert = logits.grad().sum_dim_intlist(&[0i64][..], false, Kind::Float);
    let fullest = counts.argmax(0, false).int64_value(&[]);
    assert_eq!(fullest, 0);
    assert!(
        by_expert.double_value(&[0]) > 0.0,
        "the fullest expert's logits go down: {by_expert}"
    );
}

#[test]
fn the_z_loss_of_shifted_logits_is_the_square_of_the_shifted_sum() {
    let logits = drawn(6, &[10, 4]);
    let sums = logits.logsumexp(&[-1i64][..], false);
    let shifted = z_loss(&(&logits + 1.75)).double_value(&[]);
    let wanted = (sums + 1.75).square().mean(Kind::Float).double_value(&[]);
    assert!((shifted - wanted).abs() < 1e-5, "{shifted} {wanted}");
}

#[test]
fn equal_experts_are_the_dense_layer_under_any_router() {
    let (documents, x) = (documents(), input());
    let pass = Pass::evaluate(&documents);
    let dense = expert(5, false).forward(&x, &pass);
    for k in [1usize, 2, 4] {
        let layer = layer(&[5; 4], RouterConfig::top(k), false);
        assert_close("normalised", &layer.forward(&x, &pass), &dense, NEAR, NEAR);
        let plain = RouterConfig {
            normalise: false,
            ..RouterConfig::top(k)
        };
        let layer = self::layer(&[5; 4], plain, false);
        let share = layer.route(&x, &pass).weights.sum_dim_intlist(-1, true, Kind::Float);
        assert_close("share", &layer.forward(&x, &pass), &(&dense * share), NEAR, NEAR);
    }
    let one = layer(&[5], RouterConfig::top(1), false);
    assert_close("one expert", &one.forward(&x, &pass), &dense, NEAR, NEAR);
}

#[test]
fn experts_in_another_order_with_their_router_s_rows_are_the_same_layer() {
    let (documents, x) = (documents(), input());
    let pass = Pass::evaluate(&documents);
    let order = Tensor::from_slice(&[2i64, 0, 3, 1]);
    let weight = router(4, RouterConfig::top(2), false)
        .weight()
        .value()
        .index_select(0, &order);
    let permuted = Experts::new(
        ModulePath::root(),
        Router::new(Param::frozen(weight, Role::Router), RouterConfig::top(2)).expect("fits"),
        [3, 1, 4, 2].into_iter().map(|seed| expert(seed, false)).collect(),
    );
    let permuted = permuted.expect("fits").forward(&x, &pass);
    let plain = layer(&[1, 2, 3, 4], RouterConfig::top(2), false).forward(&x, &pass);
    assert_close("permuted", &permuted, &plain, NEAR, NEAR);
}

#[test]
fn tokens_in_another_order_have_the_same_results() {
    let (documents, x) = (documents(), input());
    let pass = Pass::evaluate(&documents);
    let layer = layer(&[1, 2, 3, 4], RouterConfig::top(2), false);
    let order = Tensor::randperm(TOKENS, (Kind::Int64, Device::Cpu));
    let turned = layer.forward(&x.index_select(0, &order), &pass);
    assert_close(
        "turned",
        &turned,
        &layer.forward(&x, &pass).index_select(0, &order),
        NEAR,
        NEAR,
    );
}

#[test]
fn a_bias_moves_the_choice_and_never_a_weight() {
    let bias = Param::frozen(Tensor::zeros([5], (Kind::Float, Device::Cpu)), Role::Router);
    let plain = router(5, RouterConfig::top(2), false);
    let biased = router(5, RouterConfig::top(2), false).with_bias(bias.share());
    // A skewed input: one expert has far more than its part.
    let x = drawn(9, &[400, WIDTH]) + plain.weight().value().get(1) * 2.0;
    let documents = Documents::new(&[400]);
    let pass = Pass::evaluate(&documents);
    let counted = |router: &Router| -> Vec<f64> {
        let counts: Vec<f32> = router.route(&x, &pass, 0).counts(5).try_into().expect("flat");
        counts.into_iter().map(f64::from).collect()
    };
    let before = max_violation(&counted(&plain));
    assert_eq!(counted(&biased), counted(&plain), "a bias of zeros");
    for _ in 0..400 {
        update_bias(bias.value(), &counted(&biased), 2e-3);
    }
    let after = max_violation(&counted(&biased));
    assert!(before > 0.8 && after < 0.1, "{before} to {after}");
    assert!(bias.value().mean(Kind::Float).double_value(&[]).abs() < 1e-6);
    // Whatever was chosen weighs as its unbiased probabilities say.
    let routing = biased.route(&x, &pass, 0);
    let chosen = routing.probabilities.gather(-1, &routing.chosen, false);
    let wanted = &chosen / chosen.sum_dim_intlist(-1, true, Kind::Float);
    assert_eq!(routing.weights, wanted);
    assert_ne!(routing.chosen, plain.route(&x, &pass, 0).chosen);
}

#[test]
fn skipping_leaves_out_the_lesser_expert_only() {
    let (documents, x) = (documents(), input());
    let pass = Pass::evaluate(&documents);
    let run = |config| layer(&[1, 2, 3, 4], config, false).forward(&x, &pass);
    let skip = |skip_below| RouterConfig {
        skip_below,
        ..RouterConfig::top(2)
    };
    assert_eq!(run(skip(0.0)), run(RouterConfig::top(2)));
    assert_close(
        "all but the first",
        &run(skip(1.0)),
        &run(RouterConfig::top(1)),
        NEAR,
        NEAR,
    );
    let routing = layer(&[1, 2, 3, 4], skip(0.6), false).route(&x, &pass);
    let kept = routing.counts(4).sum(Kind::Float).double_value(&[]) as i64;
    assert!(kept > TOKENS && kept < 2 * TOKENS, "{kept}");
    let plain = layer(&[1, 2, 3, 4], RouterConfig::top(2), false).route(&x, &pass);
    for token in 0..TOKENS {
        let weights = |routing: &moe::Routing, i| routing.weights.double_value(&[token, i]);
        let is_skipped = weights(&plain, 1) < 0.6 * weights(&plain, 0);
        assert_eq!(routing.chosen.int64_value(&[token, 1]) == 4, is_skipped);
        let wanted = if is_skipped { 1.0 } else { weights(&plain, 0) };
        assert!((weights(&routing, 0) - wanted).abs() < 1e-6);
    }
}

#[test]
fn jitter_is_for_training_and_a_function_of_its_key() {
    let documents = documents();
    let config = RouterConfig {
        jitter: 0.3,
        ..RouterConfig::top(2)
    };
    let layer = layer(&[1, 2, 3, 4], config, false);
    let logits = |pass: &Pass| layer.route(&input(), pass).logits;
    let plain = logits(&Pass::evaluate(&documents));
    let train = |key| logits(&Pass::train(&documents, DropoutKey(key)));
    assert!(train(1) == train(1) && train(1) != train(2));
    assert_ne!(train(1), plain);
    // Each number read is off by at most the jitter.
    let bound = input().abs().matmul(&layer.router().weight().value().abs().tr()) * 0.3;
    assert_eq!(
        (train(1) - plain)
            .abs()
            .le_tensor(&(bound + 1e-5))
            .all()
            .int64_value(&[]),
        1
    );
}

#[test]
fn a_layer_tells_its_losses_and_counts_to_a_pass_that_listens() {
    let documents = documents();
    let balance = moe::Balance { aux: 0.5, z: 0.25 };
    let layer = layer(&[1, 2, 3, 4], RouterConfig::top(2), true).with_balance(balance);
    let side = SideLosses::default();
    let pass = Pass::train(&documents, DropoutKey(0)).with_side_losses(&side);
    let routing = layer.route(&input(), &pass);
    let _ = layer.forward(&input(), &pass);
    let losses = side.drain();
    let aux = load_balancing_loss(&routing.probabilities, &routing.counts(4)) * 0.5;
    assert_eq!(losses, [aux, z_loss(&routing.logits) * 0.25]);
    losses[0].backward();
    assert!(layer.router().weight().value().grad().abs().max().double_value(&[]) > 0.0);
    let counts: Vec<f32> = routing.counts(4).try_into().expect("flat");
    let counts: Vec<f64> = counts.into_iter().map(f64::from).collect();
    assert_eq!(side.drain_tallies(), [(layer.path().clone(), counts)]);
}

#[test]
fn an_expert_without_tokens_has_a_gradient_of_zeros() {
    let documents = documents();
    // The bias keeps every token away from expert 2.
    let bias = Param::frozen(Tensor::from_slice(&[0.0f32, 0.0, -9.0, 0.0]), Role::Router);
    for kind in [Kind::Float, Kind::BFloat16] {
        let router = router(4, RouterConfig::top(2), true).with_bias(bias.share());
        let experts = [1, 2, 3, 4].map(|seed| expert(seed, true));
        let layer = Experts::new(ModulePath::root(), router, experts.into()).expect("fits");
        let x = input().to_kind(kind).set_requires_grad(true);
        let y = layer.forward(&x, &Pass::train(&documents, DropoutKey(0)));
        autograd::backward(&[&y], &[&y.ones_like()]).expect("a backward pass");
        layer.visit(&ModulePath::root(), &mut |at, param| {
            if !param.is_trainable() {
                return;
            }
            let largest = param.value().grad().abs().max().double_value(&[]);
            assert_eq!(largest == 0.0, at.as_str().contains("experts.2."), "{at}: {largest}");
        });
    }
}

#[test]
fn surgery_meets_each_matrix_under_its_checkpoint_s_path_and_not_the_router() {
    let at = ModulePath::from("model.layers.3.block_sparse_moe");
    let mut met = Vec::new();
    let boxed: Box<dyn Sublayer> = Box::new(layer(&[1, 2], RouterConfig::top(1), false));
    let again = boxed
        .map_projections(&at, &mut |at, projection| {
            met.push(at.to_string());
            Ok(projection)
        })
        .expect("nothing refused");
    let all = ["0.w1", "0.w3", "0.w2", "1.w1", "1.w3", "1.w2"];
    assert_eq!(met, all.map(|name| format!("{at}.experts.{name}")));
    let mut roles = Vec::new();
    again.visit(&at, &mut |at, param| roles.push((at.to_string(), param.role())));
    assert_eq!(roles[0], (format!("{at}.gate.weight"), Role::Router));
    assert_eq!(roles.iter().filter(|(_, role)| *role == Role::Base).count(), 6);
}

#[test]
fn what_does_not_fit_is_refused() {
    let weight = || Param::frozen(drawn(1, &[4, WIDTH]), Role::Router);
    let refused = |config| Router::new(weight(), config).unwrap_err().to_string();
    let error = refused(RouterConfig::top(5));
    assert!(
        error.contains("`num_experts_per_tok`: wanted 1 to 4") && error.contains("hint: "),
        "{error}"
    );
    let error = refused(RouterConfig {
        jitter: 1.5,
        ..RouterConfig::top(1)
    });
    assert!(error.contains("`router_jitter_noise`"), "{error}");
    let few = Experts::new(
        ModulePath::root(),
        Router::new(weight(), RouterConfig::top(2)).expect("fits"),
        vec![expert(1, false)],
    );
    assert!(
        few.unwrap_err()
            .to_string()
            .contains("wanted shape [1, 12], found [4, 12]")
    );
}
