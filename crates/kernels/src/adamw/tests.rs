//! Fused against torch's own optimiser (golden vectors) and against the plain twin in f64.

use tch::{Kind, Tensor};

use super::{Moving, Step, adamw, by_lists, grad_norm, reference};
use crate::twins::{assert_close, draw, golden};
use tensor_core::unit::on_each;

fn step(number: u64, gradient_scale: f64) -> Step {
    Step {
        number,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
        gradient_scale,
    }
}

#[test]
fn five_steps_are_those_of_torch() {
    let golden = golden("kernels/adamw");
    let rates: Vec<f64> = Vec::try_from(&golden["learning_rate"]).unwrap();
    let constant = |name: &str| golden[name].double_value(&[]);
    on_each(|unit| {
        let f32_of = |name: &str| golden[name].to_kind(Kind::Float).copy();
        let (value, first, second) = (f32_of("parameter.0"), f32_of("first.0"), f32_of("second.0"));
        for (number, &learning_rate) in (1u64..).zip(&rates) {
            let step = Step {
                number,
                beta1: constant("beta1"),
                beta2: constant("beta2"),
                eps: constant("eps"),
                gradient_scale: 1.0,
            };
            let weight_decay = constant("weight_decay");
            let gradient = &f32_of(&format!("gradient.{number}"));
            let moving = Moving {
                value: &value,
                gradient,
                first: &first,
                second: &second,
                learning_rate,
                weight_decay,
            };
            adamw(&[moving], &step);
            for (name, got) in [("parameter", &value), ("first", &first), ("second", &second)] {
                assert_close(
                    &format!("{name}.{number} on {unit:?}"),
                    got,
                    &golden[&format!("{name}.{number}")],
                );
            }
        }
    });
}

fn moving([value, gradient, first, second]: &[Tensor; 4], i: usize) -> Moving<'_> {
    let (learning_rate, weight_decay) = (1e-2 * (i + 1) as f64, 0.1 * i as f64);
    Moving {
        value,
        gradient,
        first,
        second,
        learning_rate,
        weight_decay,
    }
}

/// States of parameters of several shapes, one of them empty.
fn states(kind: Kind) -> Vec<[Tensor; 4]> {
    let shapes: [&[i64]; 4] = [&[3, 7], &[1], &[70_001], &[0]];
    (0i64..)
        .zip(shapes)
        .map(|(i, shape)| {
            let draw = |n| draw(shape, Kind::Float, 1.0, 10 * i + n).to_kind(kind);
            [draw(1), draw(2), draw(3), draw(4).square()]
        })
        .collect()
}

/// Asserts that `got` is what each alone becomes in f64, the empty one aside.
fn moved_as_alone(what: &str, got: &[[Tensor; 4]]) {
    let want = states(Kind::Double);
    for (i, (got, want)) in got.iter().zip(&want).enumerate().filter(|(i, _)| *i != 3) {
        reference::adamw(&moving(want, i), &step(3, 0.37));
        for (part, (got, want)) in got.iter().zip(want).enumerate() {
            assert_close(&format!("parameter {i}, tensor {part} {what}"), got, want);
        }
    }
}

#[test]
fn many_parameters_move_as_each_alone_in_f64() {
    on_each(|unit| {
        let got = states(Kind::Float);
        let params: Vec<_> = got.iter().enumerate().map(|(i, state)| moving(state, i)).collect();
        adamw(&params, &step(3, 0.37));
        moved_as_alone(&format!("on {unit:?}"), &got);
    });
}

#[test]
fn what_goes_by_lists_moves_as_each_alone_too() {
    let got = states(Kind::Float);
    let params: Vec<_> = got.iter().enumerate().map(|(i, state)| moving(state, i)).collect();
    by_lists::adamw(&params.iter().take(3).collect::<Vec<_>>(), &step(3, 0.37));
    moved_as_alone("by lists", &got);
    let gradients: Vec<Tensor> = got.into_iter().map(|[_, gradient, ..]| gradient).collect();
    let norm = grad_norm(&gradients.iter().collect::<Vec<_>>());
    let by_lists = by_lists::square_sum(&gradients[..3]).sqrt();
    assert!((by_lists - norm).abs() < 1e-6 * norm, "{by_lists} is not {norm}");
}

#[test]
fn leaves_with_a_graph_before_them_move_too() {
    let value = draw(&[5], Kind::Float, 1.0, 1).set_requires_grad(true);
    let before = value.detach().copy();
    let zeros = [value.detach().zeros_like(), value.detach().zeros_like()];
    let gradient = value.detach().ones_like();
    // With zero moments, step 1 moves by η g / (|g| + ε): by hand, almost η.
    let moving = Moving {
        value: &value,
        gradient: &gradient,
        first: &zeros[0],
        second: &zeros[1],
        learning_rate: 0.01,
        weight_decay: 0.0,
    };
    adamw(&[moving], &step(1, 1.0));
    let moved: Vec<f32> = Vec::try_from(before - value.detach()).unwrap();
    assert!(moved.iter().all(|by| (by - 0.01).abs() < 1e-6), "{moved:?}");
}

#[test]
#[should_panic(expected = "a parameter moves once a step")]
fn a_parameter_that_comes_twice_is_refused() {
    let x: Vec<Tensor> = (0..4).map(|seed| draw(&[5], Kind::Float, 1.0, seed)).collect();
    let moving = || Moving {
        value: &x[0],
        gradient: &x[1],
        first: &x[2],
        second: &x[3],
        learning_rate: 0.1,
        weight_decay: 0.0,
    };
    adamw(&[moving(), moving()], &step(1, 1.0));
}

#[test]
fn the_norm_is_that_of_all_gradients_together() {
    let golden = golden("kernels/clip");
    let gradients = [0, 1, 2].map(|n| golden[&format!("gradient.{n}")].to_kind(Kind::Float));
    let norm = grad_norm(&[&gradients[0], &Tensor::new(), &gradients[1], &gradients[2]]);
    // f32 inputs squared and summed in f64: only f64 roundings remain.
    assert!((norm - golden["norm"].double_value(&[])).abs() < 1e-12 * norm, "{norm}");
}

#[test]
fn the_norm_of_a_long_gradient_is_exact() {
    let x = draw(&[3 * (1 << 14) + 5], Kind::Float, 1e-3, 2);
    let wide = x
        .to_kind(Kind::Double)
        .square()
        .sum(Kind::Double)
        .double_value(&[])
        .sqrt();
    on_each(|unit| {
        let norm = grad_norm(&[&x]);
        assert!((norm - wide).abs() < 1e-12 * wide, "{unit:?}: {norm} is not {wide}");
    });
    // Finite in f64 where f32 squares overflow.
    assert!(
        (grad_norm(&[&Tensor::from_slice(&[3e30f32, 4e30])]) - f64::from(3e30f32).hypot(f64::from(4e30f32))).abs()
            < 1e18
    );
}
