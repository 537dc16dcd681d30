//! Fused against plain: odd widths, both activations, apart and packed, both dtypes, far tails.

use tch::{Kind, Tensor};

use super::{Activation, gated, gated_packed, geglu_tanh, reference, swiglu};
use crate::twins::{check, check_golden, draw};

const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];
const ACTIVATIONS: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

#[test]
fn gates_and_their_gradients_equal_the_plain_ones() {
    for shape in [[7, 53], [1, 1], [19, 1536]] {
        for kind in KINDS {
            for activation in ACTIVATIONS {
                let inputs = [draw(&shape, kind, 3.0, 1), draw(&shape, kind, 1.0, 2)];
                check(
                    &format!("{shape:?} {kind:?} {activation:?}"),
                    &inputs,
                    &|x| vec![gated(activation, &x[0], &x[1])],
                    &|x| vec![reference::gated(activation, &x[0], &x[1])],
                );
            }
        }
    }
}

#[test]
fn packed_rows_equal_the_plain_ones() {
    for shape in [[7, 2 * 53], [1, 2], [19, 2 * 1536]] {
        for kind in KINDS {
            for activation in ACTIVATIONS {
                check(
                    &format!("{shape:?} {kind:?} {activation:?}"),
                    &[draw(&shape, kind, 2.0, 3)],
                    &|x| vec![gated_packed(activation, &x[0])],
                    &|x| vec![reference::gated_packed(activation, &x[0])],
                );
            }
        }
    }
}

#[test]
fn halves_of_a_row_are_read_where_they_lie() {
    let whole = draw(&[9, 70], Kind::Float, 1.0, 4);
    let halves = |x: &Tensor| [x.narrow(1, 0, 35), x.narrow(1, 35, 35)];
    check(
        "views",
        &[whole],
        &|x| {
            let [gate, up] = halves(&x[0]);
            vec![swiglu(&gate, &up)]
        },
        &|x| vec![reference::gated_packed(Activation::Silu, &x[0])],
    );
}

#[test]
fn gates_equal_the_golden_vectors() {
    check_golden("swiglu", &["gate", "up"], |x, _| swiglu(&x[0], &x[1]));
    check_golden("geglu", &["gate", "up"], |x, _| geglu_tanh(&x[0], &x[1]));
}

#[test]
fn far_tails_are_flat_and_finite() {
    // silu(z) tends to z and to -0; its slope to 1 and 0. GELU the same.
    let gate = Tensor::from_slice(&[-3e4f32, -100.0, 100.0, 3e4]).view([1, 4]);
    for activation in ACTIVATIONS {
        let leaf = gate.copy().set_requires_grad(true);
        let y = gated(activation, &leaf, &gate.ones_like());
        y.sum(Kind::Float).backward();
        assert_eq!(
            Vec::<f32>::try_from(y.detach().view([-1])).unwrap(),
            [0.0, 0.0, 100.0, 3e4]
        );
        assert_eq!(
            Vec::<f32>::try_from(leaf.grad().view([-1])).unwrap(),
            [0.0, 0.0, 1.0, 1.0]
        );
    }
}

#[test]
#[should_panic(expected = "a gate and what it gates")]
fn a_gate_of_another_shape_is_refused() {
    let x = draw(&[3, 4], Kind::Float, 1.0, 5);
    let _ = swiglu(&x, &x.narrow(1, 0, 3));
}
