//! Fused against plain, and what the kept output loses.

use tch::{Device, Kind, Tensor};
use tensor_core::autograd;

use super::{FLOOR, reference, scale_columns};
use crate::twins::{assert_close, check, draw};

/// A tensor of its own memory, whose gradient reaches `x`.
fn own(x: &Tensor) -> Tensor {
    x * 1.0
}

#[test]
fn scaling_and_its_gradients_equal_the_plain_ones() {
    for shape in [[7, 53], [1, 1], [200, 37], [130, 576]] {
        let (x, gain) = (
            draw(&shape, Kind::Float, 1.0, 1),
            draw(&shape[1..], Kind::Float, 1.0, 2),
        );
        // A factor near 0 divides the sum's own rounding: factors here are 1 and more.
        let gain = &gain.sign() + &gain;
        check(
            &format!("{shape:?}"),
            &[x, gain],
            &|x| vec![scale_columns(own(&x[0]), &x[1])],
            &|x| vec![reference::scale_columns(&x[0], &x[1])],
        );
    }
}

#[test]
fn in_bf16_the_gradient_of_a_factor_is_that_of_the_rounded_output() {
    let (x, gain) = (
        draw(&[130, 53], Kind::BFloat16, 1.0, 3),
        draw(&[53], Kind::Float, 1.0, 4) + 3.0,
    );
    let (x, gain) = (x.set_requires_grad(true), gain.set_requires_grad(true));
    let dy = draw(&[130, 53], Kind::BFloat16, 1.0, 5);
    let y = scale_columns(own(&x), &gain);
    autograd::backward(&[&y], &[&dy]).unwrap();
    let wide = |x: &Tensor| x.detach().to_kind(Kind::Double);
    assert_close("y", &y.detach(), &(wide(&x) * wide(&gain)));
    assert_close("dx", &x.grad(), &(wide(&dy) * wide(&gain)));
    let sums = (wide(&dy) * wide(&y)).sum_dim_intlist([0].as_slice(), false, Kind::Double) / wide(&gain);
    assert_close("dg", &gain.grad(), &sums);
}

#[test]
fn factors_of_one_change_no_bit() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let x = draw(&[9, 40], kind, 1.0, 6);
        assert_eq!(
            scale_columns(own(&x), &Tensor::ones([40], (Kind::Float, Device::Cpu))),
            x
        );
    }
}

#[test]
fn a_factor_of_nought_still_learns() {
    let x = draw(&[5, 3], Kind::Float, 1.0, 7);
    let gain = Tensor::from_slice(&[0.0f32, 2.0, -0.0]).set_requires_grad(true);
    let y = scale_columns(own(&x), &gain);
    assert!(y.select(1, 0).abs().max().double_value(&[]) <= 10.0 * FLOOR);
    autograd::backward(&[&y], &[&y.ones_like()]).unwrap();
    assert_close(
        "dg is the sum of x",
        &gain.grad(),
        &x.to_kind(Kind::Double)
            .sum_dim_intlist([0].as_slice(), false, Kind::Double),
    );
}

#[test]
fn the_result_lies_where_the_input_lay() {
    let x = draw(&[4, 8], Kind::Float, 1.0, 8);
    let place = x.data_ptr();
    let y = scale_columns(x, &Tensor::ones([8], (Kind::Float, Device::Cpu)));
    assert_eq!(y.data_ptr(), place);
}

#[test]
#[should_panic(expected = "one factor a column")]
fn factors_for_another_width_are_refused() {
    let _ = scale_columns(
        draw(&[4, 8], Kind::Float, 1.0, 9),
        &Tensor::ones([7], (Kind::Float, Device::Cpu)),
    );
}

#[test]
fn a_factor_that_is_nan_makes_its_column_nan() {
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
        let x = || Tensor::ones([3, 20], (kind, Device::Cpu));
        let gain = Tensor::ones([20], (Kind::Float, Device::Cpu));
        let _ = gain.narrow(0, 7, 1).fill_(f64::NAN);
        let _ = gain.narrow(0, 8, 1).fill_(0.0);
        let y = scale_columns(x(), &gain).to_kind(Kind::Float);
        assert_eq!(y.isnan().sum(Kind::Int64).int64_value(&[]), 3, "{kind:?}");
        assert!(y.double_value(&[2, 7]).is_nan());
        assert!(y.double_value(&[2, 8]).abs() <= FLOOR * 1.01);
    }
}
