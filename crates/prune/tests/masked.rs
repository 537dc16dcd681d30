//! Zeros that stay: the laws of every projection, and the mask under every way to train.

use golden::laws::projection_laws;
use golden::{assert_close, random};
use lora::{Lora, LowRank};
use prune::{Mask, Masked};
use tch::Tensor;
use tensor_core::{Dense, Documents, DropoutKey, Param, Pass, Projection, Role, autograd, named_params};

const OUT: i64 = 11;
const IN: i64 = 6;

fn mask() -> Mask {
    Mask::new(random(4, [OUT, IN]).gt(0.0))
}

fn pruned() -> Tensor {
    mask().apply(&random(1, [OUT, IN]))
}

fn frozen() -> Box<dyn Projection> {
    Box::new(Dense::new(Param::frozen(pruned(), Role::Base)))
}

fn adapted(dropout: f64) -> Box<dyn Projection> {
    let low_rank = LowRank::new(&random(2, [3, IN]), &random(3, [OUT, 3]), 2.5);
    Box::new(Lora::new(frozen(), low_rank, dropout, 7))
}

fn masked(inner: Box<dyn Projection>) -> Box<dyn Projection> {
    Box::new(Masked::new(inner, mask()).unwrap())
}

#[test]
fn a_masked_matrix_and_a_masked_update_keep_the_laws() {
    projection_laws("frozen", IN, &|| masked(frozen()));
    projection_laws("adapted", IN, &|| masked(adapted(0.0)));
    projection_laws("trained", IN, &|| {
        masked(Box::new(Dense::new(Param::trainable(
            &random(1, [OUT, IN]),
            Role::Base,
        ))))
    });
}

#[test]
fn merging_an_update_keeps_every_zero() {
    let gone = mask().kept().logical_not();
    let merged = masked(adapted(0.0)).merge();
    let weight = merged.param().value();
    assert_eq!(weight.masked_select(&gone).abs().max().double_value(&[]), 0.0);
    let free = adapted(0.0).weight();
    assert!(
        free.masked_select(&gone).abs().min().double_value(&[]) > 0.0,
        "without the mask all are filled"
    );
    assert!(
        weight
            .masked_select(mask().kept())
            .equal(&free.masked_select(mask().kept()))
    );
}

#[test]
fn with_adapters_off_it_is_its_base_bit_for_bit() {
    let documents = Documents::new(&[5]);
    let x = random(9, [5, IN]);
    let off = Pass::evaluate(&documents).without_adapters();
    assert!(
        masked(adapted(0.0))
            .forward(&x, &off)
            .equal(&frozen().forward(&x, &off))
    );
}

#[test]
fn gradients_never_reach_what_went() {
    let documents = Documents::new(&[5]);
    let projection = masked(Box::new(Dense::new(Param::trainable(&pruned(), Role::Base))));
    let y = projection.forward(&random(9, [5, IN]), &Pass::train(&documents, DropoutKey(1)));
    autograd::backward(&[&y], &[&y.ones_like()]).unwrap();
    let (_, param) = &named_params(&*projection)[0];
    let gradient = param.value().grad();
    assert_eq!(
        gradient
            .masked_select(&mask().kept().logical_not())
            .abs()
            .max()
            .double_value(&[]),
        0.0
    );
    assert!(gradient.masked_select(mask().kept()).abs().min().double_value(&[]) > 0.0);
}

#[test]
fn one_token_at_a_time_follows_the_factors() {
    let documents = Documents::new(&[1]);
    let x = random(9, [1, IN]);
    let projection = masked(adapted(0.0));
    let ask = || projection.forward(&x, &Pass::evaluate(&documents));
    let first = ask();
    assert!(ask().equal(&first));
    assert_close("kept", &first, &x.matmul(&projection.weight().tr()), 1e-5, 1e-5);
    projection.visit(&tensor_core::ModulePath::root(), &mut |at, param| {
        if at.as_str().starts_with("lora_B") {
            let _ = tch::no_grad(|| param.value().shallow_clone().fill_(0.5));
        }
    });
    assert_close("after a step", &ask(), &x.matmul(&projection.weight().tr()), 1e-5, 1e-5);
    assert!(!ask().equal(&first));
}

#[test]
fn an_update_that_cannot_be_masked_is_refused() {
    let error = Masked::new(adapted(0.1), mask()).unwrap_err().to_string();
    assert!(error.contains("dropout") && error.contains("hint:"), "{error}");
    let error = Masked::new(masked(adapted(0.0)), mask()).unwrap_err().to_string();
    assert!(error.contains("another wrapper"), "{error}");
    let narrow = Mask::new(random(4, [OUT, 3]).gt(0.0));
    assert!(
        Masked::new(frozen(), narrow)
            .unwrap_err()
            .to_string()
            .contains("wanted shape [11, 6], found [11, 3]")
    );
}
