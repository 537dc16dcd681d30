//! The laws of every projection, the paper's numbers, and what DoRA alone promises.

use dora::Dora;
use golden::laws::{projection_laws, projection_laws_but_slopes, wrapping_laws};
use golden::{Vectors, assert_close, random};
use lora::LowRank;
use quant::codec::{BlockSize, Scheme};
use quant::{Quantized, QuantizedWeight};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Dense, Documents, DropoutKey, Linear, ModulePath, Param, Parameters, Pass, Projection, Role, autograd, project,
};

const OUT: i64 = 11;
const IN: i64 = 6;

fn frozen() -> Box<dyn Projection> {
    Box::new(Dense::new(Param::frozen(random(1, [OUT, IN]), Role::Base)))
}

/// Rank 3, B times `b`, magnitudes `stretch` times the norms.
fn dora(base: Box<dyn Projection>, b: f64, stretch: f64, exact: bool) -> Dora {
    let low_rank = LowRank::new(&random(2, [3, IN]), &(random(3, [OUT, 3]) * b), 2.5);
    let dora = Dora::new(base, Some(low_rank))
        .expect("a frozen base")
        .with_exact_norm(exact);
    let magnitude = dora.magnitude().value().detach() * stretch;
    dora.with_magnitude(&magnitude)
}

fn magnitudes_alone(stretch: f64) -> Dora {
    let dora = Dora::new(frozen(), None).expect("a frozen base");
    let magnitude = dora.magnitude().value().detach() * stretch;
    dora.with_magnitude(&magnitude)
}

#[test]
fn dora_keeps_the_laws_in_both_modes() {
    projection_laws("exact norm", IN, &|| Box::new(dora(frozen(), 0.5, 1.3, true)));
    projection_laws_but_slopes("norm held constant", IN, &|| Box::new(dora(frozen(), 0.5, 1.3, false)));
    projection_laws("magnitudes alone", IN, &|| Box::new(magnitudes_alone(1.3)));
}

#[test]
fn wrapping_with_a_zero_b_changes_nothing() {
    for exact in [false, true] {
        wrapping_laws("dora", IN, &frozen, &|| Box::new(dora(frozen(), 0.0, 1.0, exact)));
    }
    wrapping_laws("magnitudes alone", IN, &frozen, &|| Box::new(magnitudes_alone(1.0)));
}

#[test]
fn at_step_0_the_output_is_the_base_s_bit_for_bit() {
    let documents = Documents::new(&[40]);
    for kind in [Kind::Float, Kind::BFloat16] {
        // Widths that the machine's matrix units take, if it has them.
        let base = || Dense::new(Param::frozen(random(7, [96, 64]).to_kind(kind), Role::Base));
        let x = random(8, [40, 64]).to_kind(kind);
        let wanted = base().forward(&x, &Pass::evaluate(&documents));
        let low_rank = LowRank::new(
            &random(2, [4, 64]),
            &Tensor::zeros([96, 4], (Kind::Float, Device::Cpu)),
            2.0,
        );
        for update in [Some(low_rank), None] {
            let wrapped = Dora::new(Box::new(base()), update).expect("a frozen base");
            assert_eq!(wrapped.forward(&x, &Pass::evaluate(&documents)), wanted, "{kind:?}");
        }
    }
}

/// The matrices of the reference numbers: `f(i, j)` in f64, as f32.
fn matrix(rows: i64, columns: i64, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let values: Vec<f64> = (0..rows * columns)
        .map(|at| f((at / columns) as f64, (at % columns) as f64))
        .collect();
    Tensor::from_slice(&values).view([rows, columns]).to_kind(Kind::Float)
}

#[test]
fn the_numbers_worked_out_by_hand_come_out() {
    let w = matrix(4, 8, |i, j| (0.7 * i + 1.3 * j + 0.1 * i * j + 0.2).sin());
    let x = matrix(1, 8, |t, j| (0.3 * t + 0.9 * j + 0.05 * t * j).cos() * (1.0 + 0.5 * j));
    let a = matrix(2, 8, |k, j| (0.5 * k + 0.2 * j).sin());
    let b = matrix(4, 2, |i, k| 0.1 * (0.4 * i + 0.6 * k).cos());
    let row = |values: [f64; 4]| Tensor::from_slice(&values).view([1, 4]);
    // Numbers are given to six digits behind the point; gradients go up to 41, in f32.
    let near = |name: &str, ours: &Tensor, theirs: [f64; 4]| assert_close(name, ours, &row(theirs), 2e-6, 2e-6);
    let norms = [1.889880, 2.069381, 2.028268, 2.028624];
    let documents = Documents::new(&[1]);
    let make = |exact| {
        let base = Dense::new(Param::frozen(w.shallow_clone(), Role::Base));
        let low_rank = LowRank::new(&a, &b, 2.0);
        let m = w.square().sum_dim_intlist([1].as_slice(), false, Kind::Float).sqrt();
        near("rows of W", &m.view([1, 4]), norms);
        let dora = Dora::new(Box::new(base), Some(low_rank))
            .expect("a frozen base")
            .with_exact_norm(exact);
        near(
            "rows of W + sBA",
            &dora.magnitude().value().view([1, 4]),
            [2.185948, 2.121354, 1.991549, 2.030125],
        );
        (dora, m)
    };
    let (dora, m) = make(false);
    let dora = dora.with_magnitude(&m);
    near(
        "y",
        &dora.forward(&x, &Pass::evaluate(&documents)),
        [7.461419, -0.692409, -4.903638, -0.274291],
    );
    for (exact, db_row, db_norm) in [
        (false, [40.873570, 29.571005], 75.026450),
        (true, [-11.762623, -41.250750], 70.828338),
    ] {
        let (dora, m) = make(exact);
        let dora = dora.with_magnitude(&(m * 1.1));
        let y = dora.forward(&x, &Pass::train(&documents, DropoutKey(0)));
        near("y of longer rows", &y, [8.207560, -0.761650, -5.394002, -0.301720]);
        let loss = (y - 1.0).square().sum(Kind::Float) * 0.5;
        assert!((loss.double_value(&[]) - 48.815035).abs() < 1e-4, "{loss:?}");
        loss.backward();
        near(
            "dm",
            &dora.magnitude().value().grad().view([1, 4]),
            [28.456103, 0.589443, 15.458445, 0.176006],
        );
        let db = dora.low_rank().expect("an update").b().value().grad();
        assert_close("dB, row 0", &db.get(0), &Tensor::from_slice(&db_row), 1e-5, 1e-5);
        let norm = db.norm().double_value(&[]);
        assert!((norm / db_norm - 1.0).abs() < 1e-5, "exact {exact}: {norm}");
    }
}

/// The layer that PEFT computed, in f32, in a slot with its bias.
fn layer(vectors: &Vectors, exact: bool) -> Dora {
    let f32 = |name: &str| vectors.get(name).to_kind(Kind::Float);
    let low_rank = LowRank::new(&f32("A"), &f32("B"), vectors.number("scaling"));
    let base = Dense::new(Param::frozen(f32("weight"), Role::Base));
    let dora = Dora::new(Box::new(base), Some(low_rank)).expect("a frozen base");
    dora.with_magnitude(&f32("magnitude")).with_exact_norm(exact)
}

/// Sums of some ten products of numbers of size one, in f32.
const NEAR: f64 = 2e-5;

#[test]
fn the_forward_and_every_gradient_are_peft_s() {
    let vectors = Vectors::open("dora/layer");
    for exact in [false, true] {
        let x = vectors.get("x").to_kind(Kind::Float).set_requires_grad(true);
        let bias = vectors.get("bias").to_kind(Kind::Float);
        let slot = Linear::new(layer(&vectors, exact), Some(Param::frozen(bias, Role::Norm)));
        let documents = Documents::new(&[x.size()[0] as usize]);
        let y = slot.forward(&x, &Pass::train(&documents, DropoutKey(0)));
        autograd::backward(&[&y], &[&vectors.get("dy").to_kind(Kind::Float)]).unwrap();
        assert_close("y", &y, &vectors.get("y"), NEAR, NEAR);
        assert_close("d_x", &x.grad(), &vectors.get("d_x"), NEAR, NEAR);
        let of_mode = |name: &str| {
            vectors.get(&if exact {
                format!("exact.{name}")
            } else {
                name.to_owned()
            })
        };
        let mut met = 0;
        slot.visit(&ModulePath::root(), &mut |at, param| {
            let wanted = match at.as_str() {
                "lora_A.weight" => of_mode("d_A"),
                "lora_B.weight" => of_mode("d_B"),
                "lora_magnitude_vector" => vectors.get("d_magnitude"),
                _ => return assert!(!param.value().grad().defined(), "{at} is frozen"),
            };
            assert_close(
                &format!("{at}, exact {exact}"),
                &param.value().grad(),
                &wanted,
                NEAR,
                NEAR,
            );
            met += 1;
        });
        assert_eq!(met, 3);
    }
}

/// PEFT's output for an input `x` of which dropout left `dropped`, in f64.
fn dropped_output(vectors: &Vectors, x: &Tensor, dropped: &Tensor) -> Tensor {
    let get = |name: &str| vectors.get(name);
    let s = vectors.number("scaling");
    let direction = get("weight") + get("B").matmul(&get("A")) * s;
    let g = get("magnitude") / direction.linalg_norm(2, [1].as_slice(), false, Kind::Double);
    let update = dropped.matmul(&get("A").tr()).matmul(&get("B").tr()) * s;
    x.matmul(&get("weight").tr()) + (&g - 1.0) * dropped.matmul(&get("weight").tr()) + &g * update
}

#[test]
fn dropout_drops_what_peft_drops() {
    let vectors = Vectors::open("dora/layer");
    let (x, dropped) = (vectors.get("x"), vectors.get("dropped"));
    assert_close(
        "the equation is PEFT's",
        &(dropped_output(&vectors, &x, &dropped) + vectors.get("bias")),
        &vectors.get("dropped.y"),
        1e-12,
        1e-12,
    );
    let site = ModulePath::from("a.b").site();
    let dora = layer(&vectors, false).with_dropout(0.4, site);
    let documents = Documents::new(&[x.size()[0] as usize]);
    let pass = Pass::train(&documents, DropoutKey(9));
    let leaf = x.to_kind(Kind::Float).set_requires_grad(true);
    let y = dora.forward(&leaf, &pass);
    let mask = |x: &Tensor| kernels::dropout::dropout(&x.to_kind(Kind::Float), 0.4, DropoutKey(9).at(site));
    let wide = x.copy().set_requires_grad(true);
    // The mask is linear: dropping ones gives what x is multiplied by.
    let plain = dropped_output(&vectors, &wide, &(&wide * mask(&x.ones_like()).to_kind(Kind::Double)));
    assert_close("y", &y, &plain, NEAR, NEAR);
    let dy = vectors.get("dy");
    autograd::backward(&[&y], &[&dy.to_kind(Kind::Float)]).unwrap();
    autograd::backward(&[&plain], &[&dy]).unwrap();
    assert_close("d_x", &leaf.grad(), &wide.grad(), NEAR, NEAR);
    let evaluated = dora.forward(&x.to_kind(Kind::Float), &Pass::evaluate(&documents));
    assert_close(
        "no dropout when measuring",
        &(evaluated.to_kind(Kind::Double) + vectors.get("bias")),
        &vectors.get("y"),
        NEAR,
        NEAR,
    );
}

#[test]
fn the_exact_gradient_is_orthogonal_to_the_direction() {
    // With rank = in and A the identity, dB = s·dV: <dV_row, V_row> is 0 if and only if the norm's gradient is there.
    let documents = Documents::new(&[5]);
    for (exact, orthogonal) in [(true, true), (false, false)] {
        let low_rank = LowRank::new(&Tensor::eye(IN, (Kind::Float, Device::Cpu)), &random(4, [OUT, IN]), 0.5);
        let dora = Dora::new(frozen(), Some(low_rank))
            .expect("a frozen base")
            .with_exact_norm(exact);
        let direction = random(1, [OUT, IN]) + random(4, [OUT, IN]) * 0.5;
        let y = dora.forward(&random(5, [5, IN]), &Pass::train(&documents, DropoutKey(0)));
        autograd::backward(&[&y], &[&random(6, [5, OUT])]).unwrap();
        let db = dora.low_rank().expect("an update").b().value().grad();
        let along = (db * direction).sum_dim_intlist([1].as_slice(), false, Kind::Float);
        let largest = along.abs().max().double_value(&[]);
        assert_eq!(largest < 1e-5, orthogonal, "exact {exact}: {largest}");
    }
}

#[test]
fn merged_rows_have_the_lengths_of_the_magnitudes() {
    let dora = dora(frozen(), 0.5, -1.7, false);
    let wanted = dora.magnitude().value().detach().abs();
    let merged = Projection::weight(&Box::new(dora).merge());
    let norms = merged.linalg_norm(2, [1].as_slice(), false, Kind::Float);
    assert_close("norms", &norms, &wanted, 1e-6, 0.0);
}

#[test]
fn the_norm_follows_every_write_to_a_factor() {
    let documents = Documents::new(&[3]);
    let (dora, x) = (dora(frozen(), 0.5, 1.0, false), random(5, [3, IN]));
    let check = |what: &str| {
        let y = dora.forward(&x, &Pass::evaluate(&documents));
        assert_close(what, &y, &x.matmul(&dora.weight().tr()), 1e-5, 1e-5);
        y
    };
    let first = check("at first");
    let update = dora.low_rank().expect("an update");
    let _ = tch::no_grad(|| update.b().value().view([-1]).narrow(0, 0, 1).g_add_scalar_(1.0));
    let second = check("after a write to memory");
    let _ = tch::no_grad(|| update.a().value().shallow_clone().g_mul_scalar_(1.5));
    let third = check("after an operation in place");
    assert!(first != second && second != third);
}

#[test]
fn a_row_of_zeros_stays_one() {
    let weight = random(1, [OUT, IN]);
    let _ = weight.get(2).zero_();
    for exact in [false, true] {
        let base = Dense::new(Param::frozen(weight.copy(), Role::Base));
        let dora = dora(Box::new(base), 0.0, 1.0, exact);
        let documents = Documents::new(&[4]);
        let y = dora.forward(&random(5, [4, IN]), &Pass::train(&documents, DropoutKey(0)));
        assert_eq!(y.select(1, 2).abs().max().double_value(&[]), 0.0);
        autograd::backward(&[&y], &[&y.ones_like()]).unwrap();
        dora.visit(&ModulePath::root(), &mut |at, param| {
            let grad = param.value().grad();
            assert!(!grad.defined() || grad.isfinite().all().int64_value(&[]) == 1, "{at}");
        });
    }
}

#[test]
fn queries_keys_and_values_are_one_function_and_equal_each_alone() {
    let documents = Documents::new(&[9]);
    let slots = || {
        let one = |seed: i64, out: i64, stretch: f64, exact: bool| {
            let base = Dense::new(Param::frozen(random(seed, [out, IN]), Role::Base));
            let low_rank = LowRank::new(&random(seed + 1, [2, IN]), &random(seed + 2, [out, 2]), 0.5);
            let dora = Dora::new(Box::new(base), Some(low_rank))
                .expect("frozen")
                .with_exact_norm(exact);
            let magnitude = dora.magnitude().value().detach() * stretch;
            Linear::new(
                dora.with_magnitude(&magnitude),
                Some(Param::frozen(random(seed + 3, [1, out]).view([out]), Role::Norm)),
            )
        };
        [one(10, 7, 0.9, false), one(20, 5, 1.2, true), one(30, 5, -1.0, false)]
    };
    let run = |fused: bool| {
        let (slots, x) = (slots(), random(40, [9, IN]).set_requires_grad(true));
        let pass = Pass::train(&documents, DropoutKey(0));
        let ys = match fused {
            true => project(&x, [&slots[0], &slots[1], &slots[2]], &pass),
            false => [0, 1, 2].map(|i| slots[i].forward(&x, &pass)),
        };
        let dys = [0, 1, 2].map(|i| random(50 + i as i64, [9, ys[i].size()[1]]));
        autograd::backward(&ys.iter().collect::<Vec<_>>(), &dys.iter().collect::<Vec<_>>()).unwrap();
        let mut found: Vec<Tensor> = ys.iter().map(Tensor::detach).collect();
        found.push(x.grad());
        for slot in &slots {
            slot.visit(&ModulePath::root(), &mut |_, param| {
                if param.is_trainable() {
                    found.push(param.value().grad());
                }
            });
        }
        found
    };
    let (fused, alone) = (run(true), run(false));
    assert_eq!(fused.len(), 3 + 1 + 9);
    for (i, (fused, alone)) in fused.iter().zip(&alone).enumerate() {
        assert_close(&format!("result {i}"), fused, alone, 1e-5, 1e-5);
    }
}

#[test]
fn a_base_that_trains_or_is_wrapped_is_refused() {
    let trained = Dense::new(Param::trainable(&random(1, [OUT, IN]), Role::Base));
    let found = |base: Box<dyn Projection>| Dora::new(base, None).expect_err("refused").0;
    assert_eq!(found(Box::new(trained)), "a weight that trains");
    assert_eq!(found(Box::new(dora(frozen(), 0.0, 1.0, false))), "an adapter");
    assert_eq!(
        Box::new(magnitudes_alone(1.0)).into_dense().expect_err("wrapped").0,
        "a DoRA adapter"
    );
}

#[test]
fn a_base_in_four_bits_keeps_the_laws() {
    for scheme in [Scheme::Nf4, Scheme::Int8] {
        let packed = || {
            let weight = QuantizedWeight::of(&random(1, [OUT, IN]), scheme, BlockSize::default(), false);
            Box::new(Quantized::new(weight.expect("a matrix")))
        };
        projection_laws("over a packed weight", IN, &|| Box::new(dora(packed(), 0.5, 1.3, true)));
        projection_laws_but_slopes("over a packed weight", IN, &|| {
            Box::new(dora(packed(), 0.5, 1.3, false))
        });
        wrapping_laws("over a packed weight", IN, &|| packed(), &|| {
            Box::new(dora(packed(), 0.0, 1.0, false))
        });
    }
}
