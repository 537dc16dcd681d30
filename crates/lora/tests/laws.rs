//! The laws of every projection, for each form of the update; and PEFT's own numbers.

use golden::laws::{projection_laws, wrapping_laws};
use golden::{Vectors, assert_close, random};
use lora::{FullUpdate, Init, Lora, LoraConfig, LowRank, Wrapping};
use tch::{Kind, Tensor};
use tensor_core::{Dense, Documents, DropoutKey, FrozenCache, ModulePath, Param, Pass, Projection, Role, autograd};

const OUT: i64 = 11;
const IN: i64 = 6;

fn frozen() -> Box<dyn Projection> {
    Box::new(Dense::new(Param::frozen(random(1, [OUT, IN]), Role::Base)))
}

fn lora(base: Box<dyn Projection>, b: f64) -> Box<dyn Projection> {
    let low_rank = LowRank::new(&random(2, [3, IN]), &(random(3, [OUT, 3]) * b), 2.5);
    Box::new(Lora::new(base, low_rank, 0.0, 0))
}

#[test]
fn lora_over_every_base_keeps_the_laws() {
    projection_laws("lora over frozen", IN, &|| lora(frozen(), 0.5));
    projection_laws("lora over trained", IN, &|| {
        lora(
            Box::new(Dense::new(Param::trainable(&random(1, [OUT, IN]), Role::Base))),
            0.5,
        )
    });
}

#[test]
fn wrapping_with_a_zero_b_changes_nothing() {
    wrapping_laws("lora", IN, &frozen, &|| lora(frozen(), 0.0));
    wrapping_laws("full update", IN, &frozen, &|| {
        Box::new(FullUpdate::new(frozen(), &frozen().weight()))
    });
}

#[test]
fn the_forward_and_every_gradient_are_the_equations() {
    let vectors = Vectors::open("kernels/lora");
    let f32 = |name: &str| vectors.get(name).to_kind(Kind::Float);
    let low_rank = LowRank::new(&f32("A"), &f32("B"), vectors.number("scaling"));
    let base = Dense::new(Param::frozen(f32("weight"), Role::Base));
    let lora = Lora::new(Box::new(base), low_rank, 0.0, 0);
    let x = f32("x").set_requires_grad(true);
    let documents = Documents::new(&[x.size()[0] as usize]);
    let y = lora.forward(&x, &Pass::train(&documents, DropoutKey(0)));
    autograd::backward(&[&y], &[&f32("dy")]).unwrap();
    assert_close("y", &y, &vectors.get("y"), 1e-5, 1e-5);
    assert_close("d_x", &x.grad(), &vectors.get("d_x"), 1e-5, 1e-5);
    assert_close(
        "d_A",
        &lora.low_rank().a().value().grad(),
        &vectors.get("d_A"),
        1e-5,
        1e-5,
    );
    assert_close(
        "d_B",
        &lora.low_rank().b().value().grad(),
        &vectors.get("d_B"),
        1e-5,
        1e-5,
    );
}

#[test]
fn dropout_touches_the_update_only_and_repeats_with_its_key() {
    let low_rank = LowRank::new(&random(2, [3, IN]), &random(3, [OUT, 3]), 1.0);
    let lora = Lora::new(frozen(), low_rank, 0.5, ModulePath::from("a.b").site());
    let documents = Documents::new(&[64]);
    let x = random(4, [64, IN]) * 0.1;
    let train = |key| lora.forward(&x, &Pass::train(&documents, DropoutKey(key)));
    assert!(train(1).equal(&train(1)), "the same key draws the same mask");
    assert!(!train(1).equal(&train(2)), "another key draws another mask");
    let evaluated = lora.forward(&x, &Pass::evaluate(&documents));
    assert_close(
        "no dropout when measuring",
        &evaluated,
        &x.matmul(&lora.weight().tr()),
        1e-5,
        1e-5,
    );
    // Over many keys the mean is the undropped value: each number within six standard errors, and the update as a whole,
    // whose numbers deviate this way and that, by a factor of 1. One that is not scaled by 1 / (1 - p) has 0.5.
    let num_draws = 400;
    let draws: Vec<Tensor> = (0..num_draws).map(train).collect();
    let draws = Tensor::stack(&draws, 0);
    let mean = draws.mean_dim([0i64].as_slice(), false, Kind::Float);
    let standard_error = draws.std_dim([0i64].as_slice(), true, false) / (num_draws as f64).sqrt();
    let off = ((&mean - &evaluated).abs() / standard_error.clamp_min(1e-6))
        .max()
        .double_value(&[]);
    assert!(off < 6.0, "{off} standard errors");
    let base = lora.forward(&x, &Pass::evaluate(&documents).without_adapters());
    let (update, drawn) = (&evaluated - &base, &mean - &base);
    let dot = |a: &Tensor, b: &Tensor| (a * b).sum(Kind::Double).double_value(&[]);
    let factor = dot(&drawn, &update) / dot(&update, &update);
    assert!((factor - 1.0).abs() < 0.03, "{factor}");
}

#[test]
fn a_second_update_over_the_first_is_refused() {
    let at = ModulePath::from("model.layers.0.mlp.up_proj");
    let wrapping = Wrapping::choose(
        LoraConfig {
            r: 2,
            ..LoraConfig::default()
        },
        &[(at.clone(), false)],
        &[],
    )
    .unwrap();
    let once = wrapping.projection(&at, frozen()).unwrap();
    let error = wrapping.projection(&at, once).unwrap_err().to_string();
    assert!(
        error.contains("`model.layers.0.mlp.up_proj`") && error.contains("found a LoRA adapter"),
        "{error}"
    );
}

#[test]
fn pissa_and_olora_begin_as_peft_does() {
    let vectors = Vectors::open("adapters/initial");
    for (name, init) in [("pissa", Init::Pissa), ("olora", Init::Olora)] {
        for shape in ["tall", "wide"] {
            let get = |what: &str| vectors.get(&format!("{name}-{shape}.{what}"));
            let weight = get("weight");
            let scale = vectors.number(&format!("{name}-{shape}.scaling"));
            let rank = get("A").size()[0];
            let (a, b) = init.factors(&weight, rank, scale, 0);
            let product = b.matmul(&a) * scale;
            // PEFT's `product` holds the scale or not: the residual decides.
            assert_close(
                &format!("{name}-{shape} residual"),
                &(&weight - &product),
                &get("residual"),
                1e-4,
                1e-5,
            );
        }
    }
}

#[test]
fn loftq_begins_with_the_best_product_of_what_quantising_lost() {
    // Rounded to steps of 1/2, as a quantised weight is; tall and wide.
    for shape in [[40, 30], [30, 40]] {
        let weight = random(7, shape);
        let rounded = (&weight * 2.0).round() / 2.0;
        let (rank, scale) = (5, 1.5);
        let (a, b) = Init::Loftq.factors(&(&weight - &rounded), rank, scale, 0);
        let left = &weight - &rounded - b.matmul(&a) * scale;
        let (_, s, _) = (&weight - &rounded).to_kind(Kind::Double).svd(true, true);
        // Eckart and Young: no product of that rank leaves less.
        let least = s
            .narrow(0, rank, 30 - rank)
            .square()
            .sum(Kind::Double)
            .double_value(&[]);
        let found = left.square().sum(Kind::Double).double_value(&[]);
        assert!((found / least - 1.0).abs() < 1e-5, "{found}, wanted {least}");
        // Neither factor takes more of it than the other.
        let norm = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]);
        assert!((norm(&a) / norm(&b) - 1.0).abs() < 1e-5);
    }
}

#[test]
fn loftq_without_the_weights_from_before_is_refused() {
    let config = LoraConfig {
        r: 2,
        init_lora_weights: Init::Loftq,
        ..LoraConfig::default()
    };
    let paths = [("model.layers.0.self_attn.q_proj".into(), false)];
    let wrapping = Wrapping::choose(config, &paths, &[]).unwrap();
    let base = Dense::new(Param::frozen(random(1, [6, 5]), Role::Base));
    let error = wrapping
        .projection(&paths[0].0, Box::new(base))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("before quantising") && error.contains("hint: "),
        "{error}"
    );
}

#[test]
fn subspace_iterations_find_the_principal_part() {
    // Singular values fall fast, so four iterations reach the exact part.
    let u = Tensor::linalg_qr(&random(5, [40, 8]), "reduced").0;
    let v = Tensor::linalg_qr(&random(6, [30, 8]), "reduced").0;
    let s = Tensor::from_slice(&[8.0f32, 6.0, 4.0, 0.5, 0.2, 0.1, 0.05, 0.01]);
    let weight = (u * s.unsqueeze(0)).matmul(&v.tr());
    let (exact_a, exact_b) = Init::Pissa.factors(&weight, 3, 1.0, 0);
    let (a, b) = Init::PissaIterations(4).factors(&weight, 3, 1.0, 0);
    assert_close("principal part", &b.matmul(&a), &exact_b.matmul(&exact_a), 1e-4, 1e-5);
}

#[test]
fn what_is_kept_while_parameters_are_still_is_what_would_be_made_anew() {
    let (out, width) = (64, 96);
    let base = Param::frozen(random(1, [out, width]).to_kind(Kind::BFloat16), Role::Base);
    let low_rank = LowRank::new(&random(2, [5, width]), &random(3, [out, 5]), 0.7);
    let factor = low_rank.b().share();
    let lora = Lora::new(Box::new(Dense::new(base)), low_rank, 0.0, 0);
    let documents = Documents::new(&[19]);
    let pass = Pass::evaluate(&documents);
    let still = FrozenCache::default();
    for seed in [4, 5] {
        let x = random(seed, [19, width]).to_kind(Kind::BFloat16);
        let kept = lora.forward(&x, &pass.with_frozen_cache(&still));
        assert!(kept.equal(&lora.forward(&x, &pass)), "{still:?}");
    }
    // The promise is what keeps them: a factor that changes is seen by a pass without it, and not by one with it.
    let still = FrozenCache::default();
    let x = random(6, [19, width]).to_kind(Kind::BFloat16);
    let before = lora.forward(&x, &pass.with_frozen_cache(&still));
    tch::no_grad(|| factor.value().detach().copy_(&random(7, [out, 5])));
    assert!(lora.forward(&x, &pass.with_frozen_cache(&still)).equal(&before));
    assert!(!lora.forward(&x, &pass).equal(&before));
}
