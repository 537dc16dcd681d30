//! What does not fit a packed matrix is refused with a message before any memory is touched.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quant::adamw::{Step, adamw_tensors};
use quant::codec::{BlockSize, Scales, Scheme, dequantise_range};
use quant::{Quantized, QuantizedWeight, ScaleTensors};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, FrozenMap, Pass, Projection};

const CPU: Device = Device::Cpu;

fn zeros(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::zeros(shape, (kind, CPU))
}

/// Whether a call panics, as it must; what it says is not empty.
fn is_refused<R>(call: impl FnOnce() -> R) -> bool {
    match catch_unwind(AssertUnwindSafe(|| drop(call()))) {
        Ok(()) => false,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            !text.unwrap_or_default().is_empty()
        }
    }
}

fn packed(scheme: Scheme, nested: bool) -> QuantizedWeight {
    tch::manual_seed(1);
    let weight = Tensor::randn([64, 64], (Kind::Float, CPU));
    QuantizedWeight::of(&weight, scheme, BlockSize::default(), nested).unwrap()
}

const SCHEMES: [Scheme; 4] = [Scheme::Nf4, Scheme::Fp4, Scheme::Int4, Scheme::Int8];

#[test]
fn an_input_of_another_width_is_refused() {
    for scheme in SCHEMES {
        for nested in [false, true] {
            let quantized = Quantized::new(packed(scheme, nested));
            for kind in [Kind::Float, Kind::BFloat16] {
                for (tokens, width) in [
                    (2, 32),
                    (1, 262_144),
                    (1, 128),
                    (1, 63),
                    (1, 0),
                    (2, 65),
                    (3, 32),
                    (40, 128),
                ] {
                    let x = zeros(&[tokens, width], kind);
                    let documents = Documents::new(&[tokens as usize]);
                    let what = format!("{scheme:?} {kind:?} [{tokens}, {width}]");
                    assert!(is_refused(|| quantized.apply(&x)), "{what}");
                    assert!(
                        is_refused(|| quantized.forward(&x, &Pass::evaluate(&documents))),
                        "{what}"
                    );
                    assert!(
                        is_refused(|| quantized.apply_transposed(&x, None)),
                        "{what}, transposed"
                    );
                }
                for tokens in [0, 1, 2, 3] {
                    let y = quantized.apply(&zeros(&[tokens, 64], kind));
                    assert_eq!((y.size(), y.kind()), (vec![tokens, 64], kind));
                }
            }
        }
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    type Spoil = fn(&mut QuantizedWeight);
    let spoils: [(&str, Spoil); 7] = [
        ("codes cut short", |weight| {
            weight.codes = weight.codes.view([-1]).narrow(0, 0, 100);
        }),
        ("codes with gaps", |weight| {
            let codes = weight.codes.view([-1, 1]);
            weight.codes = Tensor::cat(&[&codes, &codes], 1).narrow(1, 0, 1);
        }),
        ("codes as f32", |weight| {
            weight.codes = weight.codes.to_kind(Kind::Float);
        }),
        ("another shape", |weight| weight.shape = [64, 4096]),
        ("a negative shape", |weight| weight.shape = [-64, -64]),
        ("one scale", |weight| {
            weight.scales = ScaleTensors::Plain(zeros(&[1], Kind::Float));
        }),
        ("scales as f64", |weight| {
            weight.scales = ScaleTensors::Plain(zeros(&[64], Kind::Double));
        }),
    ];
    for scheme in SCHEMES {
        for (what, spoil) in spoils {
            let mut weight = packed(scheme, false);
            spoil(&mut weight);
            let input = weight.shape[1].max(0);
            let whole = weight.share();
            assert!(is_refused(|| whole.dequantise(Kind::Float)), "{scheme:?}: {what}");
            let quantized = Quantized::new(weight);
            let x = zeros(&[1, input], Kind::Float);
            assert!(is_refused(|| quantized.apply(&x)), "{scheme:?}: {what}");
        }
    }
    let mut nested = packed(Scheme::Nf4, true);
    if let ScaleTensors::Nested { levels, .. } = &mut nested.scales {
        *levels = levels.narrow(0, 0, 255);
    }
    assert!(is_refused(|| nested.dequantise(Kind::BFloat16)));
}

#[test]
fn a_target_that_is_not_the_matrix_s_is_refused() {
    let weight = packed(Scheme::Int8, false);
    assert!(is_refused(|| weight.dequantise_into(&zeros(&[64, 63], Kind::Float))));
    assert!(is_refused(|| weight.dequantise_into(&zeros(&[4096], Kind::Float))));
    // The scales of a matrix whose numbers are to go where the scales are.
    let memory = zeros(&[64, 64], Kind::Float);
    let within = QuantizedWeight {
        scales: ScaleTensors::Plain(memory.view([-1]).narrow(0, 0, 64)),
        ..weight.share()
    };
    assert!(is_refused(|| within.dequantise_into(&memory)));
    let scattered = zeros(&[64, 64], Kind::Float).tr();
    weight.dequantise_into(&scattered);
    // By operators: the same products, perhaps rounded in another order.
    let apart = (scattered - weight.dequantise(Kind::Float))
        .abs()
        .max()
        .double_value(&[]);
    assert!(apart < 1e-6, "{apart}");
}

#[test]
fn ranges_and_slices_that_do_not_fit_are_refused() {
    let (block, codes, absmax) = (BlockSize::default(), [0u8; 64], [1.0f32; 2]);
    let scales = Scales::Plain(&absmax);
    let read = |range: std::ops::Range<usize>, len: usize| {
        let mut values = vec![0.0f32; len];
        dequantise_range(Scheme::Nf4, block, &codes, &scales, range, &mut values);
    };
    read(64..128, 64);
    for (range, len) in [
        (0..129, 129),
        (1..64, 63),
        (0..64, 65),
        (128..192, 64),
        (64..usize::MAX, 64),
    ] {
        assert!(is_refused(|| read(range.clone(), len)), "{range:?} into {len}");
    }
}

#[test]
fn states_that_do_not_fit_a_parameter_are_refused() {
    let step = Step {
        number: 1,
        learning_rate: 0.1,
        weight_decay: 0.0,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        gradient_scale: 1.0,
    };
    let state = |codes: i64, absmax: i64| [zeros(&[codes], Kind::Uint8), zeros(&[absmax], Kind::Float)];
    let value = zeros(&[600], Kind::Float);
    let update = |gradient: &Tensor, mean: &[Tensor; 2], square: &[Tensor; 2]| {
        is_refused(|| adamw_tensors(&value, gradient, [mean.each_ref(), square.each_ref()], &step))
    };
    let gradient = zeros(&[600], Kind::Float);
    let good = || state(600, 3);
    assert!(!update(&gradient, &good(), &good()));
    assert!(update(&zeros(&[599], Kind::Float), &good(), &good()));
    assert!(update(&zeros(&[600], Kind::BFloat16), &good(), &good()));
    assert!(update(&value, &good(), &good()), "the gradient is the value");
    for wrong in [
        state(599, 3),
        state(600, 2),
        state(600, 4),
        [good()[1].shallow_clone(), good()[0].shallow_clone()],
    ] {
        assert!(update(&gradient, &wrong, &good()) && update(&gradient, &good(), &wrong));
    }
    let one = good();
    assert!(update(&gradient, &one, &one), "both means are one");
}
